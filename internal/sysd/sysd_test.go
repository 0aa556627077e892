package sysd

import (
	"errors"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

func TestNotifySendsOneDatagram(t *testing.T) {
	name := filepath.Join(t.TempDir(), "notify")
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: name, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	t.Setenv("NOTIFY_SOCKET", name)
	if err := Notify("READY=1", "STATUS=serving"); err != nil {
		t.Fatal(err)
	}
	b := make([]byte, 100)
	n, err := conn.Read(b)
	if err != nil || string(b[:n]) != "READY=1\nSTATUS=serving" {
		t.Errorf("received %q, %v", b[:n], err)
	}
	t.Setenv("NOTIFY_SOCKET", "")
	if err := Notify("READY=1"); err != nil {
		t.Errorf("without a service manager: %v", err)
	}
}

func TestNotifyKnowsAbstractNames(t *testing.T) {
	name := "@narfold-test-" + strconv.Itoa(os.Getpid())
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: name, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	t.Setenv("NOTIFY_SOCKET", name)
	if err := Notify("STOPPING=1"); err != nil {
		t.Fatal(err)
	}
	b := make([]byte, 100)
	if n, err := conn.Read(b); err != nil || string(b[:n]) != "STOPPING=1" {
		t.Errorf("received %q, %v", b[:n], err)
	}
}

func TestNotifySaysThatNobodyListens(t *testing.T) {
	t.Setenv("NOTIFY_SOCKET", filepath.Join(t.TempDir(), "gone"))
	if err := Notify("READY=1"); !errors.Is(err, syscall.ENOENT) || !strings.Contains(err.Error(), "notify the service manager") {
		t.Errorf("%v", err)
	}
}

func TestReloadingTellsTheTimeInMicroseconds(t *testing.T) {
	name := filepath.Join(t.TempDir(), "notify")
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: name, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	t.Setenv("NOTIFY_SOCKET", name)
	clock := func() int64 {
		var ts unix.Timespec
		if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts); err != nil {
			t.Fatal(err)
		}
		return ts.Nano() / 1000
	}
	before := clock()
	if err := Reloading(); err != nil {
		t.Fatal(err)
	}
	after := clock()
	b := make([]byte, 100)
	n, err := conn.Read(b)
	if err != nil {
		t.Fatal(err)
	}
	text, ok := strings.CutPrefix(string(b[:n]), "RELOADING=1\nMONOTONIC_USEC=")
	at, err := strconv.ParseInt(text, 10, 64)
	if !ok || err != nil || at < before || at > after {
		t.Errorf("received %q between %d and %d", b[:n], before, after)
	}
}

func TestHandedOverSocketsAccept(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	f, err := l.(*net.TCPListener).File()
	if err != nil {
		t.Fatal(err)
	}
	addr := l.Addr().String()
	l.Close()
	got, err := fromFiles(handOver(t, f), 1)
	if err != nil || len(got) != 1 {
		t.Fatalf("%v, %v", got, err)
	}
	defer got[0].Close()
	accepted := make(chan error, 1)
	go func() {
		c, err := got[0].Accept()
		if err == nil {
			c.Close()
		}
		accepted <- err
	}()
	c, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	c.Close()
	if err := <-accepted; err != nil {
		t.Error(err)
	}
}

func TestSocketsForAnotherProcessAreNotTaken(t *testing.T) {
	t.Setenv("LISTEN_PID", strconv.Itoa(os.Getpid()+1))
	t.Setenv("LISTEN_FDS", "1")
	if got, err := Listeners(); err != nil || len(got) != 0 {
		t.Errorf("%v, %v", got, err)
	}
	t.Setenv("LISTEN_PID", strconv.Itoa(os.Getpid()))
	t.Setenv("LISTEN_FDS", "many")
	if got, err := Listeners(); err == nil {
		t.Errorf("%v", got)
	}
}

func TestWhatIsNoSocketIsRefused(t *testing.T) {
	f, err := os.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	fd := handOver(t, f)
	if got, err := fromFiles(fd, 1); err == nil || !strings.Contains(err.Error(), "take socket "+strconv.Itoa(fd)) {
		t.Errorf("%v, %v", got, err)
	}
}

// handOver returns a descriptor of f that belongs to nobody yet, and closes f.
func handOver(t *testing.T, f *os.File) int {
	t.Helper()
	fd, err := unix.Dup(int(f.Fd()))
	if err != nil {
		t.Fatal(err)
	}
	f.Close()
	return fd
}
