package main

import (
	"bufio"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/nix-community/go-nix/pkg/nar"
)

// goNix does with go-nix's nar package what the binaries of the others do: dump PATH, hash FILE, restore DIR.
func goNix(args []string) error {
	if len(args) != 2 {
		return errors.New("want dump PATH, hash FILE or restore DIR")
	}
	switch args[0] {
	case "dump":
		// It writes many small pieces; unbuffered, each would be a system call.
		w := bufio.NewWriterSize(os.Stdout, 256<<10)
		if err := nar.DumpPath(w, args[1]); err != nil {
			return err
		}
		return w.Flush()
	case "hash":
		f, err := os.Open(args[1])
		if err != nil {
			return err
		}
		defer f.Close()
		h := sha256.New()
		err = walk(io.TeeReader(bufio.NewReaderSize(f, 256<<10), h), func(_ *nar.Header, contents io.Reader) error {
			_, err := io.Copy(io.Discard, contents)
			return err
		})
		fmt.Printf("%x\n", h.Sum(nil))
		return err
	case "restore":
		return walk(bufio.NewReaderSize(os.Stdin, 256<<10), func(h *nar.Header, contents io.Reader) error {
			return restore(filepath.Join(args[1], h.Path), h, contents)
		})
	}
	return fmt.Errorf("%q is none of dump, hash and restore", args[0])
}

func walk(r io.Reader, each func(*nar.Header, io.Reader) error) error {
	nr, err := nar.NewReader(r)
	if err != nil {
		return err
	}
	defer nr.Close()
	for {
		h, err := nr.Next()
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
		if err := each(h, nr); err != nil {
			return err
		}
	}
}

func restore(name string, h *nar.Header, contents io.Reader) error {
	switch h.Type {
	case nar.TypeDirectory:
		return os.Mkdir(name, 0o777)
	case nar.TypeSymlink:
		return os.Symlink(h.LinkTarget, name)
	}
	perm := os.FileMode(0o666)
	if h.Executable {
		perm = 0o777
	}
	f, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, perm)
	if err != nil {
		return err
	}
	if _, err := io.Copy(f, contents); err != nil {
		f.Close()
		return err
	}
	return f.Close()
}
