package main

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"
)

// service is "narfold herder run" in a process of its own, with this test as its service manager.
type service struct {
	t      *testing.T
	cmd    *exec.Cmd
	said   *logBuffer // standard error
	notify *net.UnixConn
	ended  chan struct{}
}

// serviceOptions change how a service is started.
type serviceOptions struct {
	sockets []*os.File // handed over
	env     []string
	args    []string
}

// startService starts a herder and returns when it says that it is ready.
func startService(t *testing.T, o serviceOptions) *service {
	t.Helper()
	s := &service{t: t, said: &logBuffer{}, ended: make(chan struct{})}
	name := filepath.Join(shortDir(t), "notify")
	var err error
	if s.notify, err = net.ListenUnixgram("unixgram", &net.UnixAddr{Name: name, Net: "unixgram"}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.notify.Close() })
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	args := append([]string{"herder", "run"}, o.args...)
	s.cmd = exec.CommandContext(t.Context(), self, args...)
	if len(o.sockets) > 0 {
		// Only the shell knows the number of the process that the program will be.
		s.cmd = exec.CommandContext(t.Context(), "/bin/sh", append([]string{"-c", `LISTEN_PID=$$ exec "$0" "$@"`, self}, args...)...)
		s.cmd.ExtraFiles = o.sockets
		o.env = append(o.env, fmt.Sprintf("LISTEN_FDS=%d", len(o.sockets)), "LISTEN_FDNAMES=http")
	}
	s.cmd.Env = append(append(os.Environ(), asProgram+"=1", "NOTIFY_SOCKET="+name), o.env...)
	s.cmd.Stderr = s.said
	if err := s.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		defer close(s.ended)
		_ = s.cmd.Wait() // ProcessState tells
	}()
	t.Cleanup(func() {
		_ = s.cmd.Process.Kill()
		<-s.ended
		if t.Failed() {
			t.Logf("the herder said:\n%s", s.said)
		}
	})
	if got := s.told(); got != "READY=1" {
		t.Fatalf("the service manager was told %q: %s", got, s.said)
	}
	return s
}

// shortDir is a directory with a name that fits into the address of a Unix socket.
func shortDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "narfold")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

// told returns the next thing that the service manager is told, or "ended".
func (s *service) told() string {
	s.t.Helper()
	got := make(chan string, 1)
	go func() {
		b := make([]byte, 4096)
		n, err := s.notify.Read(b)
		if err != nil {
			got <- err.Error()
			return
		}
		got <- string(b[:n])
	}()
	select {
	case text := <-got:
		return text
	case <-s.ended:
		// What it said last may lie there still.
		s.notify.SetReadDeadline(time.Now())
		if text := <-got; !strings.Contains(text, "timeout") {
			return text
		}
		return "ended"
	}
}

// address is what the herder logs of the n-th socket that it serves.
func (s *service) address(event string, n int) string {
	s.t.Helper()
	line := regexp.MustCompile(`(?m)msg="?` + event + `"? address=(\S+)`)
	var all [][]string
	wait(s.t, event, func() bool {
		all = line.FindAllStringSubmatch(s.said.String(), -1)
		return len(all) > n
	})
	return all[n][1]
}

func (s *service) url() string { return "http://" + s.address("serving", 0) }

// send sends a signal.
func (s *service) send(sig syscall.Signal) {
	s.t.Helper()
	if err := s.cmd.Process.Signal(sig); err != nil {
		s.t.Fatal(err)
	}
}

// reload sends SIGHUP and returns when the herder is ready again, with what it said meanwhile.
func (s *service) reload() string {
	s.t.Helper()
	before := len(s.said.String())
	s.send(syscall.SIGHUP)
	if got := s.told(); !regexp.MustCompile(`^RELOADING=1\nMONOTONIC_USEC=\d+$`).MatchString(got) {
		s.t.Errorf("the service manager was told %q", got)
	}
	if got := s.told(); got != "READY=1" {
		s.t.Errorf("the service manager was told %q", got)
	}
	var said string
	wait(s.t, "the log of the reload", func() bool {
		said = s.said.String()[before:]
		return strings.Contains(said, "reloaded")
	})
	return said
}

// stop sends SIGTERM, waits for the end, and returns the exit code.
func (s *service) stop() int {
	s.t.Helper()
	s.send(syscall.SIGTERM)
	if got := s.told(); got != "STOPPING=1" {
		s.t.Errorf("the service manager was told %q", got)
	}
	<-s.ended
	return s.cmd.ProcessState.ExitCode()
}

// loopback is the socket of a free port.
func loopback(t *testing.T) *net.TCPListener {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l.(*net.TCPListener)
}

// refused says whether nobody listens on address.
func refused(t *testing.T, address string) bool {
	t.Helper()
	c, err := net.Dial("tcp", address)
	if err == nil {
		c.Close()
	}
	return errors.Is(err, syscall.ECONNREFUSED)
}
