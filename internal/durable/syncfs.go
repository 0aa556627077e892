package durable

import (
	"errors"
	"fmt"
	"os"
	"sync"

	"golang.org/x/sys/unix"
)

// SyncFS flushes the whole file system that holds f: every file and name written on it before the call survives a power cut. For
// many small files that costs a tenth of flushing each.
//
// The kernel reports a write that was lost once to each open file, counting from when that file was opened (syncfs(2), NOTES). So f
// must have been opened before the first write that the call is to vouch for, and two who each want to know need a file each.
//
// It fails with errors.ErrUnsupported where the call is missing or would hide lost writes (before Linux 5.8); flush each file then.
func SyncFS(f *os.File) error {
	if !syncfsReports() {
		return fmt.Errorf("flush file system of %s: this kernel does not report lost writes: %w", f.Name(), errors.ErrUnsupported)
	}
	raw, err := f.SyscallConn()
	if err != nil {
		return fmt.Errorf("flush file system of %s: %w", f.Name(), err)
	}
	var flush error
	if err := raw.Control(func(fd uintptr) {
		for {
			if flush = unix.Syncfs(int(fd)); flush != unix.EINTR {
				return
			}
		}
	}); err != nil {
		return fmt.Errorf("flush file system of %s: %w", f.Name(), err)
	}
	if flush != nil {
		return fmt.Errorf("flush file system of %s: %w", f.Name(), flush)
	}
	return nil
}

// syncfsReports reports whether syncfs tells of lost writes, which it does since Linux 5.8 (syncfs(2), VERSIONS).
var syncfsReports = sync.OnceValue(func() bool {
	var name unix.Utsname
	if unix.Uname(&name) != nil {
		return false
	}
	return atLeast(unix.ByteSliceToString(name.Release[:]), 5, 8)
})

// atLeast reports whether a kernel's release, such as "6.1.0-28-amd64", is major.minor or newer.
func atLeast(release string, major, minor int) bool {
	var a, b int
	if n, _ := fmt.Sscanf(release, "%d.%d", &a, &b); n != 2 {
		return false
	}
	return a > major || a == major && b >= minor
}
