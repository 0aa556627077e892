package main

import (
	"fmt"
	"io"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// eachFile opens the files of a folder, and not those in folders below it.
func eachFile(folder string, f func(*os.File) error) error {
	entries, err := os.ReadDir(folder)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if !e.Type().IsRegular() {
			continue
		}
		file, err := os.Open(filepath.Join(folder, e.Name()))
		if err != nil {
			return err
		}
		err = f(file)
		file.Close()
		if err != nil {
			return fmt.Errorf("%s: %w", file.Name(), err)
		}
	}
	return nil
}

func sizeOfFiles(folder string) (total int64, err error) {
	err = eachFile(folder, func(f *os.File) error {
		info, err := f.Stat()
		if err == nil {
			total += info.Size()
		}
		return err
	})
	return total, err
}

// forgetFiles drops the files' pages from the page cache: those that are on the disk, so that they are brought there first.
func forgetFiles(folder string) error {
	return eachFile(folder, func(f *os.File) error {
		if err := f.Sync(); err != nil {
			return err
		}
		return unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_DONTNEED)
	})
}

func readFiles(folder string) error {
	return eachFile(folder, func(f *os.File) error {
		_, err := io.Copy(io.Discard, f)
		return err
	})
}
