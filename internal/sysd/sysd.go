// Package sysd talks to the service manager that started the program: it takes the sockets that were opened for it, and tells when it
// is ready. Without a service manager it does nothing. (Source: sd_listen_fds(3), sd_notify(3).)
package sysd

import (
	"fmt"
	"net"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// firstSocket is the number of the first file descriptor that is handed over.
const firstSocket = 3

// Listeners returns the sockets that were handed over, in order, and forgets them, so that children do not take them for theirs.
func Listeners() ([]net.Listener, error) {
	pid, count := os.Getenv("LISTEN_PID"), os.Getenv("LISTEN_FDS")
	for _, name := range []string{"LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"} {
		os.Unsetenv(name)
	}
	if pid != strconv.Itoa(os.Getpid()) || count == "" {
		return nil, nil
	}
	n, err := strconv.Atoi(count)
	if err != nil || n < 0 || n > 1024 {
		return nil, fmt.Errorf("take sockets from the service manager: LISTEN_FDS is %q", count)
	}
	return fromFiles(firstSocket, n)
}

func fromFiles(first, n int) (listeners []net.Listener, err error) {
	defer func() {
		if err != nil {
			for _, l := range listeners {
				l.Close()
			}
		}
	}()
	for fd := first; fd < first+n; fd++ {
		f := os.NewFile(uintptr(fd), "socket "+strconv.Itoa(fd))
		l, err := net.FileListener(f)
		f.Close()
		if err != nil {
			return listeners, fmt.Errorf("take socket %d from the service manager: %w", fd, err)
		}
		listeners = append(listeners, l)
	}
	return listeners, nil
}

// patience is how long a service manager may take to accept what it is told. It is on this machine, and reads at once or is stuck.
const patience = 5 * time.Second

// Notify tells the service manager something, such as "READY=1" or "STOPPING=1", in one datagram.
func Notify(state ...string) error {
	path := os.Getenv("NOTIFY_SOCKET")
	if path == "" {
		return nil
	}
	conn, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		return fmt.Errorf("notify the service manager: %w", err)
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(patience)); err != nil {
		return fmt.Errorf("notify the service manager: %w", err)
	}
	if _, err := conn.Write([]byte(strings.Join(state, "\n"))); err != nil {
		return fmt.Errorf("notify the service manager: %w", err)
	}
	return nil
}

// Reloading tells the service manager that the configuration is being read again; Notify("READY=1") ends that. The time that goes with
// it is what a service of Type=notify-reload owes, and harmless for others. (Source: sd_notify(3), "RELOADING=1".)
func Reloading() error {
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &now); err != nil {
		return fmt.Errorf("notify the service manager: read the clock: %w", err)
	}
	return Notify("RELOADING=1", "MONOTONIC_USEC="+strconv.FormatInt(now.Nano()/1000, 10))
}
