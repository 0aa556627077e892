package httpfront

import (
	"io"
	"net"
	"os"
	"runtime"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// sendfileMax bounds one sendfile call, so that a thread is not in the kernel for long when the client is on the same machine.
const sendfileMax = 4 << 20

// direct is a sock on a socket's descriptor. Its func values are made once, so that waiting allocates nothing.
type direct struct {
	c   *conn
	raw syscall.RawConn

	readOnce, sendOnce, fileOnce func(uintptr) bool

	in  *input
	out []byte
	fl  int
	src int
	off int64
	n   int64
	err error
}

func newSock(c *conn, nc net.Conn) sock {
	if sc, ok := nc.(syscall.Conn); ok {
		if raw, err := sc.SyscallConn(); err == nil {
			d := &direct{c: c, raw: raw}
			d.readOnce, d.sendOnce, d.fileOnce = d.tryRead, d.trySend, d.tryFile
			return d
		}
	}
	return &portable{c: c, nc: nc}
}

func (d *direct) read(in *input) error {
	d.in, d.err = in, nil
	if err := d.raw.Read(d.readOnce); err != nil {
		return err
	}
	return d.err
}

func (d *direct) tryRead(fd uintptr) bool {
	for {
		n, err := rawRead(fd, d.in.room())
		switch {
		case err == unix.EINTR:
			continue
		case err == unix.EAGAIN:
			d.in.rest()
			return false
		case err != nil:
			d.err = os.NewSyscallError("read", err)
		case n == 0:
			d.err = io.EOF
		default:
			d.in.w += n
		}
		if d.err != nil {
			d.in.rest()
		}
		return true
	}
}

func (d *direct) send(p []byte, more bool) error {
	d.out, d.fl, d.err = p, 0, nil
	if more {
		d.fl = unix.MSG_MORE
	}
	return d.write(d.sendOnce)
}

func (d *direct) write(f func(uintptr) bool) error {
	err := d.raw.Write(f)
	d.out = nil
	if d.c.phase() == phaseWrite {
		d.c.setPhase(phaseBusy)
	}
	if err != nil {
		return err
	}
	return d.err
}

func (d *direct) trySend(fd uintptr) bool {
	for len(d.out) > 0 {
		var n int
		var err error
		if d.fl == 0 {
			n, err = rawWrite(fd, d.out)
		} else {
			n, err = unix.SendmsgN(int(fd), d.out, nil, nil, d.fl)
		}
		switch {
		case err == unix.EINTR:
		case err == unix.EAGAIN:
			d.c.setPhase(phaseWrite)
			return false
		case err != nil:
			d.err = os.NewSyscallError("send", err)
			return true
		default:
			d.out = d.out[n:]
			d.c.sent.Add(int64(n))
		}
	}
	return true
}

// rawMax bounds what one rawWrite copies, so that it is done in some tens of microseconds.
const rawMax = 128 << 10

// rawRead and rawWrite are read(2) and write(2) of a socket that does not block, without telling the scheduler, which would look after this
// thread as one that may be away for long. With tens of thousands of calls a second that was a quarter of the CPU of small answers.
func rawRead(fd uintptr, p []byte) (int, error) {
	n, _, e := syscall.RawSyscall(unix.SYS_READ, fd, uintptr(unsafe.Pointer(unsafe.SliceData(p))), uintptr(len(p)))
	if e != 0 {
		return 0, e
	}
	return int(n), nil
}

func rawWrite(fd uintptr, p []byte) (int, error) {
	p = p[:min(len(p), rawMax)]
	n, _, e := syscall.RawSyscall(unix.SYS_WRITE, fd, uintptr(unsafe.Pointer(unsafe.SliceData(p))), uintptr(len(p)))
	if e != 0 {
		return 0, e
	}
	return int(n), nil
}

func (d *direct) sendFile(f *os.File, off, n int64) error {
	d.src, d.off, d.n, d.err = int(f.Fd()), off, n, nil
	err := d.write(d.fileOnce)
	runtime.KeepAlive(f)
	if err == io.ErrUnexpectedEOF {
		return short(f, d.off, nil)
	}
	return err
}

func (d *direct) tryFile(fd uintptr) bool {
	for d.n > 0 {
		n, err := unix.Sendfile(int(fd), d.src, &d.off, int(min(d.n, sendfileMax)))
		switch {
		case err == unix.EINTR:
		case err == unix.EAGAIN:
			d.c.setPhase(phaseWrite)
			return false
		case err != nil:
			d.err = os.NewSyscallError("sendfile", err)
			return true
		case n == 0:
			d.err = io.ErrUnexpectedEOF // the file is shorter than its answer says
			return true
		default:
			d.n -= int64(n)
			d.c.sent.Add(int64(n))
		}
	}
	return true
}

// acknowledged asks the kernel how many bytes nc's peer has acknowledged, and whether any are waiting for it.
func acknowledged(nc net.Conn) (taken int64, waiting, ok bool) {
	sc, is := nc.(syscall.Conn)
	if !is {
		return 0, false, false
	}
	raw, err := sc.SyscallConn()
	if err != nil {
		return 0, false, false
	}
	var info *unix.TCPInfo
	cerr := raw.Control(func(fd uintptr) {
		info, err = unix.GetsockoptTCPInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_INFO)
	})
	if cerr != nil || err != nil {
		return 0, false, false
	}
	return int64(info.Bytes_acked), info.Notsent_bytes > 0 || info.Unacked > 0, true
}
