# A formula that does not install a `softnet` command, on purpose. Softnet starts as root, and whoever
# can write to Homebrew's prefix - every program its owner runs - could exchange what root then
# runs: the command, the package, the interpreter, or a library of the interpreter. So this brings the
# sources and a `softnet-install`, which copies Softnet and a Python that can be moved to /opt/softnet, where
# root alone can write. It installs from the checkout that it lies in; a tap names a release instead.
class Softnet < Formula
  desc "Software networking for virtual machines that nobody should have to trust"
  homepage "file://#{File.expand_path("../..", __dir__)}"
  url "file://#{File.expand_path("../..", __dir__)}", using: :git, branch: "main"
  version File.read(File.expand_path("../../src/softnet/__init__.py", __dir__))[/__version__ = "(.*)"/, 1]
  license "Apache-2.0"

  # Its Pythons are built to be moved. Homebrew's own are not: they load libraries from its prefix.
  depends_on "uv"

  def install
    libexec.install "src", "scripts", "launcher", "pyproject.toml", "setup.py", "LICENSE", "README.md"
    (bin/"softnet-install").write <<~SH
      #!/bin/sh
      # Options are those of install.sh; sudo asks for the password that this installation needs once.
      set -eu
      "#{Formula["uv"].opt_bin}/uv" python install --quiet 3.13
      python=$("#{Formula["uv"].opt_bin}/uv" python find --no-project --managed-python 3.13)
      exec sudo "#{opt_libexec}/scripts/install.sh" --copy-python --python "$python" "$@"
    SH
    (bin/"softnet-uninstall").write <<~SH
      #!/bin/sh
      exec sudo "#{opt_libexec}/scripts/uninstall.sh" "$@"
    SH
  end

  def caveats
    <<~TEXT
      Softnet itself is not installed yet. Run
        softnet-install
      to put it into /opt/softnet, with the command in /usr/local/bin and a rule that lets
      administrators start it. Homebrew's prefix is writable by its user, so nothing in it may run as
      root. Run it again after each upgrade, and softnet-uninstall before you remove this formula.
    TEXT
  end

  test do
    assert_match "install.sh", shell_output("#{libexec}/scripts/install.sh --no-such-option 2>&1", 2)
  end
end
