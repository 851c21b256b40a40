"""The policy of a running Softnet, read and replaced over a stream socket.

`protocol` is the wire (JSON-RPC 2.0, a request a line), `methods` is what may be asked, `sockets`
puts both behind descriptors that the forwarder watches, `registry` finds the Softnets of this
machine, `client` asks them. Only `sockets` and `registry` are imported before the first request.
"""
