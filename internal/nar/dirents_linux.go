package nar

import (
	"bytes"
	"encoding/binary"

	"golang.org/x/sys/unix"
)

// readDirectory returns the entries of the open directory fd in the order of the file system, with buf as its buffer. The
// kind comes with the name, so that the dump of a tree needs no further system call to learn it. (Layout of struct
// linux_dirent64: getdents(2).)
func readDirectory(fd int, buf []byte) ([]dirent, error) {
	var entries []dirent
	for {
		n, err := retryN(func() (int, error) { return unix.Getdents(fd, buf) })
		if err != nil || n == 0 {
			return entries, err
		}
		names := string(buf[:n]) // one allocation for all the names
		for at := 0; at < n; {
			size := int(binary.NativeEndian.Uint16(buf[at+16:]))
			end := bytes.IndexByte(buf[at+19:at+size], 0)
			name := names[at+19 : at+19+end]
			if name != "." && name != ".." {
				entries = append(entries, dirent{name: name, kind: kindOfDirent(buf[at+18])})
			}
			at += size
		}
	}
}

func kindOfDirent(t byte) kind {
	switch t {
	case unix.DT_REG:
		return kindRegular
	case unix.DT_LNK:
		return kindSymlink
	case unix.DT_DIR:
		return kindDirectory
	case unix.DT_UNKNOWN:
		return kindUnknown
	}
	return kindOther
}
