package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"strconv"
	"strings"
	"unicode"

	"narfold/internal/nar"
)

type narLs struct {
	narInput
	Long      bool   `short:"l" help:"Show permissions, sizes and the targets of symbolic links."`
	Recursive bool   `short:"R" help:"List directories below as well."`
	File      string `arg:"" help:"The nar; - is standard input."`
	Path      string `arg:"" optional:"" help:"What to list in the nar. Default: its root."`
}

func (narLs) Help() string {
	return `Lists a directory of a nar, or shows a file or symbolic link in it, as "nix nar ls" does, also with --json. Sizes are in bytes. A name with control characters is quoted. Compressed nars are read as well. The whole nar is read and checked.

Examples:

    narfold nar ls -lR result.nar
    narfold nar ls --json -R result.nar.xz /bin`
}

func (c *narLs) Run(ctx context.Context, inv *invocation) error {
	in, err := c.open(ctx, inv, c.File)
	if err != nil {
		return err
	}
	defer in.Close()
	root, err := nar.List(in)
	if err != nil {
		return in.failure("list", err)
	}
	node := root.Find(pathInNar(c.Path))
	if node == nil {
		return in.failure("list", fmt.Errorf("%s: %w", c.Path, fs.ErrNotExist))
	}
	return inv.answer(c.listing(node), func(w io.Writer) {
		if node.Type != nar.Directory {
			c.line(w, node, path.Base(pathInNar(c.Path)))
			return
		}
		c.walk(w, node, ".")
	})
}

// pathInNar returns a path as package nar wants it: without slashes around it, and "" for the root.
func pathInNar(p string) string {
	p = strings.Trim(p, "/")
	if p == "." {
		return ""
	}
	return strings.TrimPrefix(p, "./")
}

// listing returns what is written as JSON: the node with all below it or, of a directory that is not listed recursively, the names
// with an empty object each.
func (c *narLs) listing(n *nar.Node) any {
	if c.Recursive || n.Type != nar.Directory {
		return n
	}
	type empty struct{}
	entries := map[string]empty{}
	for _, e := range n.Entries {
		entries[strings.ToValidUTF8(e.Name, string(unicode.ReplacementChar))] = empty{}
	}
	return struct {
		Type    string           `json:"type"`
		Entries map[string]empty `json:"entries"`
	}{n.Type.String(), entries}
}

func (c *narLs) walk(w io.Writer, dir *nar.Node, at string) {
	for _, e := range dir.Entries {
		name := at + "/" + e.Name
		c.line(w, e, name)
		if c.Recursive && e.Type == nar.Directory {
			c.walk(w, e, name)
		}
	}
}

func (c *narLs) line(w io.Writer, n *nar.Node, name string) {
	if !c.Long {
		fmt.Fprintln(w, printable(name))
		return
	}
	mode := "-r--r--r--"
	switch {
	case n.Type == nar.Directory:
		mode = "dr-xr-xr-x"
	case n.Type == nar.Symlink:
		mode = "lrwxrwxrwx"
	case n.Executable:
		mode = "-r-xr-xr-x"
	}
	fmt.Fprintf(w, "%s %20d %s", mode, n.Size, printable(name))
	if n.Type == nar.Symlink {
		fmt.Fprintf(w, " -> %s", printable(n.Target))
	}
	fmt.Fprintln(w)
}

// printable returns a name as it is, or quoted if it would do something to a terminal or to who reads lines.
func printable(name string) string {
	if strings.ContainsFunc(name, unicode.IsControl) {
		return strconv.Quote(name)
	}
	return name
}

type narCat struct {
	narInput
	File string `arg:"" help:"The nar; - is standard input."`
	Path string `arg:"" help:"A regular file in the nar."`
}

func (narCat) Help() string {
	return `Prints the contents of a regular file in a nar. Symbolic links are not followed. Of an uncompressed nar no more is read than is needed; a compressed one is read to its end, since only then is it known that the bytes were right. The exit code is 4 if they were not.

Examples:

    narfold nar cat result.nar /share/doc/README
    narfold nar cat result.nar.zst bin/hello > hello`
}

func (c *narCat) Run(ctx context.Context, inv *invocation) error {
	in, err := c.open(ctx, inv, c.File)
	if err != nil {
		return err
	}
	defer in.Close()
	what := fmt.Sprintf("print %s of", printable(c.Path))
	_, contents, err := nar.Open(in, pathInNar(c.Path))
	if err != nil {
		return in.failure(what, err)
	}
	if _, err := io.Copy(inv.stdout, contents); err != nil {
		return in.failure(what, err)
	}
	if _, uncompressed := in.Reader.(*bufio.Reader); uncompressed {
		return nil
	}
	if _, err := io.Copy(io.Discard, in); err != nil && !errors.Is(err, io.EOF) {
		return in.failure(what, err)
	}
	return nil
}
