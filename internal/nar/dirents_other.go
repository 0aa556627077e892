//go:build unix && !linux

package nar

import "golang.org/x/sys/unix"

// readDirectory returns the entries of the open directory fd in the order of the file system, with buf as its buffer.
func readDirectory(fd int, buf []byte) ([]dirent, error) {
	var entries []dirent
	for {
		n, err := retryN(func() (int, error) { return unix.ReadDirent(fd, buf) })
		if err != nil || n <= 0 {
			return entries, err
		}
		_, _, names := unix.ParseDirent(buf[:n], -1, nil)
		for _, name := range names {
			entries = append(entries, dirent{name: name})
		}
	}
}
