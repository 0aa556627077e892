package main

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"io/fs"

	"narfold/internal/compress"
	"narfold/internal/digest"
	"narfold/internal/nar"
)

type narCommands struct {
	Dump    narDump    `cmd:"" help:"Write the nar of a file or directory."`
	Restore narRestore `cmd:"" help:"Make the file or directory that a nar holds."`
	Hash    narHash    `cmd:"" help:"Check a nar and print its hash and size."`
	Ls      narLs      `cmd:"" help:"List what a nar holds."`
	Cat     narCat     `cmd:"" help:"Print a file that a nar holds."`
}

type narDump struct {
	Compression string `enum:"none,zstd,gzip,lzip,xz" default:"none" placeholder:"METHOD" help:"Compress by none, zstd, gzip, lzip or xz. Default: none."`
	Path        string `arg:"" help:"File, directory or symbolic link, which is not followed."`
}

func (narDump) Help() string {
	return `Writes the nar of a file, symbolic link or directory tree to standard output, byte for byte as nix-store --dump does. Sockets, devices and named pipes are refused, and so is a tree that changes meanwhile.

Examples:

    narfold nar dump ./result > result.nar
    narfold nar dump --compression zstd ./result > result.nar.zst`
}

func (c *narDump) Run(ctx context.Context, inv *invocation) error {
	out, err := inv.data("nar")
	if err != nil {
		return err
	}
	if c.Compression == string(compress.None) {
		return nar.Dump(ctx, out, c.Path)
	}
	z, err := compress.NewWriter(compress.Method(c.Compression), out, compress.Default)
	if err != nil {
		return fmt.Errorf("dump %s: %w", c.Path, err)
	}
	if err := nar.Dump(ctx, z, c.Path); err != nil {
		_ = z.Close() // it waits for the writer's goroutines; what it writes is of no use
		return err
	}
	if err := z.Close(); err != nil {
		return fmt.Errorf("dump %s: %w", c.Path, err)
	}
	return nil
}

type narRestore struct {
	narInput
	Dir string `arg:"" help:"What to make. It must not exist, and its parent must."`
}

func (narRestore) Help() string {
	return `Reads a nar from standard input and makes the file, symbolic link or directory that it holds, as nix-store --restore does. Compressed nars are read as well. Nothing is written anywhere but there, whatever the nar says, and if the nar is damaged nothing is left.

Examples:

    narfold nar restore ./result < result.nar
    curl -s https://cache.example.org/nar/zstd/HASH-hello | narfold nar restore ./hello`
}

func (c *narRestore) Run(ctx context.Context, inv *invocation) error {
	in, err := c.open(ctx, inv, "-")
	if err != nil {
		return err
	}
	defer in.Close()
	err = nar.Restore(ctx, in, c.Dir)
	switch {
	case errors.Is(err, fs.ErrExist):
		return hint(err, "a name that does not exist yet")
	case err != nil:
		return in.failure("restore", err)
	}
	return nil
}

type narHash struct {
	narInput
	Hex  bool   `xor:"form" help:"Print the hash as hexadecimal digits alone."`
	SRI  bool   `name:"sri" xor:"form" help:"Print the hash as sha256-BASE64, as newer Nix does."`
	File string `arg:"" help:"The nar; - is standard input."`
}

func (narHash) Help() string {
	return `Checks that a file holds a nar in its one canonical form and nothing else, and prints the SHA-256 and the size in bytes of the uncompressed nar: the NarHash and NarSize of its narinfo. Compressed nars are read as well. The exit code is 4 if it is no nar or damaged.

Examples:

    narfold nar hash result.nar
    narfold nar hash --sri result.nar.xz
    narfold nar dump ./result | narfold nar hash --json -`
}

func (c *narHash) Run(ctx context.Context, inv *invocation) error {
	in, err := c.open(ctx, inv, c.File)
	if err != nil {
		return err
	}
	defer in.Close()
	s, err := nar.Verify(in)
	if err != nil {
		return in.failure("hash", err)
	}
	a := struct {
		Hash        digest.SHA256 `json:"hash"` // sha256:<nix-base32>
		Hex         string        `json:"hex"`
		SRI         string        `json:"sri"`
		Size        int64         `json:"size"` // bytes of the uncompressed nar
		Files       int64         `json:"files"`
		Executables int64         `json:"executables"` // of the files
		Directories int64         `json:"directories"`
		Symlinks    int64         `json:"symlinks"`
		Contents    int64         `json:"contents"` // bytes of all the files
	}{s.Hash, s.Hash.Hex(), "sha256-" + base64.StdEncoding.EncodeToString(s.Hash[:]), s.Size, s.Files, s.Executables, s.Directories, s.Symlinks, s.Contents}
	return inv.answer(a, func(w io.Writer) {
		hash := a.Hash.String()
		switch {
		case c.Hex:
			hash = a.Hex
		case c.SRI:
			hash = a.SRI
		}
		fmt.Fprintln(w, hash, a.Size)
	})
}
