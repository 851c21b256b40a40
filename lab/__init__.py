"""The laboratory: real virtual machines and small networks to try Softnet on. Not installed with it.

`image` builds the guest, `guest` runs it, `netns` and `stage` are the network around it, `wire`
writes the frames of an attack, `attempts` lists them and `demo` shows them. Linux on x86-64 only.
"""
