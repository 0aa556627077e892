//go:build !linux

package httpfront

import "net"

func newSock(c *conn, nc net.Conn) sock { return &portable{c: c, nc: nc} }

func acknowledged(net.Conn) (taken int64, waiting, ok bool) { return 0, false, false }
