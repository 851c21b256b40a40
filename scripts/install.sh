#!/bin/sh
# Installs Softnet where only root can write. Run it as root:
#
#   install.sh [--prefix FOLDER] [--bin FOLDER] [--python FILE] [--copy-python] [--users WHO] [--sentry] [--setuid]
#
#   --prefix       everything but the command and the rule; default /opt/softnet
#   --bin          where the command is put; default /usr/local/bin
#   --python       the interpreter, 3.11 or later; default /usr/bin/python3
#   --copy-python  copy that interpreter and its library into the prefix: for one that lies where
#                  others than root can write, as long as it can be moved (docs/install.md)
#   --users        who may start Softnet as root without a password, as sudoers has it: `alice`,
#                  `%staff`, or `none` for no rule; default %admin on a Mac, else %sudo
#   --sentry       error reporting too (needs pip and the index)
#   --setuid       put the set-user-ID launcher in place of the plain command; everybody may then use it
#   DESTDIR        stage below this folder, for a package; nothing is checked then, and no root needed
#
# Installing again replaces what is there. Everything is built and checked beside the prefix first;
# the rule and the command come last. `uninstall.sh` removes exactly what this made.
set -eu
umask 022

prefix=/opt/softnet bin=/usr/local/bin python=/usr/bin/python3 copy= users= sentry= setuid=
destdir=${DESTDIR:-}
scripts=$(cd "$(dirname "$0")" && pwd)
sudoers=/etc/sudoers.d/softnet

die() { echo "install.sh: $*" >&2; exit 1; }
usage() { echo "install.sh: $*; see the head of $0" >&2; exit 2; }

while [ $# -gt 0 ]; do
  case $1 in
    --prefix|--bin|--python|--users)
      [ $# -ge 2 ] || usage "$1 needs a value"
      case $1 in
        --prefix) prefix=$2 ;; --bin) bin=$2 ;; --python) python=$2 ;; --users) users=$2 ;;
      esac
      shift 2 ;;
    --copy-python) copy=1; shift ;;
    --sentry) sentry=1; shift ;;
    --setuid) setuid=1; shift ;;
    *) usage "$1: unknown option" ;;
  esac
done

for path in "$prefix" "$bin" "$python"; do
  case $path in
    *[!A-Za-z0-9/._+-]*|*/../*|*/..) usage "$path: only plain absolute paths, as they go into sudoers and #! lines" ;;
    /?*) ;;
    *) usage "$path: must be an absolute path" ;;
  esac
done
if [ -z "$users" ]; then
  if [ "$(uname -s)" = Darwin ]; then users=%admin; else users=%sudo; fi
fi
case $users in *[!A-Za-z0-9_.%#-]*) usage "--users $users: one user, or a group as %name" ;; esac
[ -n "$destdir" ] || [ "$(id -u)" = 0 ] || die "needs root: run it with sudo"
"$python" -I -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null ||
  die "--python $python: is not Python 3.11 or later; name one that is"

home=$destdir$prefix
stage=$home.new
[ ! -e "$home" ] || [ -f "$home/installed" ] || die "--prefix $prefix: exists and is not Softnet's; choose another"
command=$destdir$bin/softnet
[ ! -e "$command" ] && [ ! -L "$command" ] || { [ -f "$home/installed" ] && grep -qxF "$bin/softnet" "$home/installed"; } ||
  die "$bin/softnet: exists and is not this one's; remove it, or choose another place with --bin"

rm -rf "$stage"
trap 'rm -rf "$stage"' EXIT
mkdir -p "$stage/bin"

# The interpreter: an environment of its own, without pip, activation scripts or system packages.
version=$("$python" -I -c 'import sys; print("%d.%d" % sys.version_info[:2])')
base=$("$python" -I -c 'import sys; print(sys.base_prefix)')
real=$("$python" -I -c 'import os, sys; print(os.path.realpath(sys.executable))')
if [ -n "$copy" ]; then
  mkdir "$stage/python" "$stage/python/bin" "$stage/python/lib"
  cp "$base/bin/python$version" "$stage/python/bin/"
  cp -R "$base/lib/python$version" "$stage/python/lib/"
  for library in "$base"/lib/libpython*; do [ ! -e "$library" ] || cp -R "$library" "$stage/python/lib/"; done
  rm -rf "$stage/python/lib/python$version/site-packages" "$stage/python/lib/python$version/test"
  real=$prefix/python/bin/python$version
fi
site=$stage/lib/python$version/site-packages
mkdir -p "$site"
ln -s "$real" "$stage/bin/python3"
printf 'home = %s\ninclude-system-site-packages = false\nversion = %s\n' "$(dirname "$real")" "$version" > "$stage/pyvenv.cfg"

# The package, and the command that starts it isolated: no PYTHON* variable, no user's packages.
"$scripts/build-package.sh" "$python" "$site"
if [ -n "$sentry" ]; then
  "$python" -I -m pip --quiet --disable-pip-version-check install --target "$site" 'sentry-sdk>=2' || die "--sentry: pip failed"
fi
"$python" -I -m compileall -q -s "$stage" -p "$prefix" "$stage/lib" || die "some file does not compile"
printf '#!%s/bin/python3 -IB\nimport sys\n\nfrom softnet.cli import main\n\nsys.exit(main())\n' "$prefix" > "$stage/bin/softnet"
chmod 755 "$stage/bin/softnet"
if [ -n "$setuid" ]; then
  "$scripts/../launcher/build.sh" "$prefix" "$stage/bin/softnet-launcher"
fi

# The rule. Not SETENV: whoever may set any variable may set LD_PRELOAD. The two are error reporting's.
if [ "$users" != none ]; then
  {
    echo "# Softnet drops root before it reads a packet. Made by its install.sh; removed by uninstall.sh."
    echo "Defaults!$prefix/bin/softnet env_keep += \"SENTRY_DSN CIRRUS_SENTRY_TAGS\""
    echo "$users ALL=(root) NOPASSWD:NOSETENV: $prefix/bin/softnet"
  } > "$stage/sudoers"
  chmod 440 "$stage/sudoers"
  if command -v visudo >/dev/null; then
    visudo -cqf "$stage/sudoers" || die "--users $users: visudo does not take the rule"
  elif [ -z "$destdir" ]; then
    die "--users $users: sudo is not installed; install it, or say --users none"
  fi
fi
{ [ "$users" = none ] || echo "$sudoers"; echo "$bin/softnet"; } > "$stage/installed"

if [ -z "$destdir" ]; then
  chown -R 0:0 "$stage"
  chmod -R go-w "$stage"
fi

# In place, then checked, then reachable. What was there before comes back when the check fails.
rm -rf "$home.old"
[ ! -e "$home" ] || mv "$home" "$home.old"
mv "$stage" "$home"
restore() { rm -rf "$home"; [ ! -e "$home.old" ] || mv "$home.old" "$home"; exit 1; }
if [ -z "$destdir" ]; then
  "$prefix/bin/python3" -IB "$scripts/check-installation.py" "$prefix" || restore
fi
if [ -e "$home.old" ]; then
  while read -r path; do rm -f "$destdir$path"; done < "$home.old/installed"
  rm -rf "$home.old"
fi

mkdir -p "$destdir$bin"
if [ -n "$setuid" ]; then
  mv "$home/bin/softnet-launcher" "$command"
  chmod 4755 "$command"
else
  ln -s "$prefix/bin/softnet" "$command"
fi
if [ "$users" != none ]; then
  mkdir -p "$destdir${sudoers%/*}"
  mv "$home/sudoers" "$destdir$sudoers"
fi
echo "installed in $prefix; the command is $bin/softnet"
