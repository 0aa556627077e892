package main

import (
	"bufio"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// nixStore is a store of real Nix below a directory of its own, with a database of its own.
type nixStore struct {
	root  string
	items []storeItem
}

type storeItem struct {
	path  string // of the store directory, which is below root
	files []storeFile
	refs  []string // paths
}

type storeFile struct {
	name string
	text []byte
}

// newNixStore makes the directories and the configuration.
func newNixStore(root string) (*nixStore, error) {
	for _, d := range []string{"store", "var/nix", "var/log/nix", "etc", "home", "cache"} {
		if err := os.MkdirAll(filepath.Join(root, d), 0o755); err != nil {
			return nil, err
		}
	}
	conf := "sandbox = false\nbuild-users-group =\nsubstituters =\nexperimental-features = nix-command\n"
	return &nixStore{root: root}, os.WriteFile(filepath.Join(root, "etc/nix.conf"), []byte(conf), 0o644)
}

// command runs a program of Nix on this store.
func (s *nixStore) command(name string, args ...string) *exec.Cmd {
	c := exec.Command(name, args...)
	c.Env = append(os.Environ(),
		"NIX_STORE_DIR="+s.root+"/store", "NIX_STATE_DIR="+s.root+"/var/nix", "NIX_LOG_DIR="+s.root+"/var/log/nix",
		"NIX_CONF_DIR="+s.root+"/etc", "NIX_LOCALSTATE_DIR="+s.root+"/var", "HOME="+s.root+"/home",
		"XDG_CACHE_HOME="+s.root+"/cache", "NIX_REMOTE=")
	return c
}

// base32 is Nix's alphabet: it has no e, o, t and u.
const base32 = "0123456789abcdfghijklmnpqrsvwxyz"

// fill plans n small items, each of which references up to two earlier ones and names them in its text, and last an item that
// references them all. Each is a directory with three files of text, some 3 KB together, which compress about three times.
func (s *nixStore) fill(n int) {
	r := rand.New(rand.NewPCG(1, uint64(n)))
	words := strings.Fields("the of store package build source lib share bin doc version hash input output reference closure index table field value")
	prose := func(size int) []byte {
		b := make([]byte, 0, size+12)
		for len(b) < size {
			b = append(append(b, words[r.IntN(len(words))]...), base32[r.IntN(32)], ' ')
		}
		return append(b, '\n')
	}
	for i := range n {
		it := s.item(fmt.Sprintf("item-%d", i))
		var needs []byte
		for range min(i, 2) {
			ref := s.items[r.IntN(len(s.items))].path
			it.refs = append(it.refs, ref)
			needs = append(append(needs, ref...), '\n')
		}
		it.files = []storeFile{{"README", prose(300 + r.IntN(1000))}, {"data", prose(500 + r.IntN(3000))}, {"needs", needs}}
		s.items = append(s.items, it)
	}
	top := s.item("top")
	var all []byte
	for _, it := range s.items {
		top.refs = append(top.refs, it.path)
		all = append(append(all, it.path...), '\n')
	}
	top.files = []storeFile{{"all", all}}
	s.items = append(s.items, top)
}

// blobs plans items of one file of random bytes each.
func (s *nixStore) blobs(n, size int) {
	r := rand.NewChaCha8([32]byte{byte(n)})
	for i := range n {
		it := s.item(fmt.Sprintf("blob-%d-%d", size, i))
		b := make([]byte, size)
		_, _ = r.Read(b)
		it.files = []storeFile{{"blob", b}}
		s.items = append(s.items, it)
	}
}

func (s *nixStore) item(name string) storeItem {
	sum := sha256.Sum256([]byte(name))
	hash := make([]byte, 32)
	for i := range hash {
		hash[i] = base32[sum[i]&31]
	}
	return storeItem{path: fmt.Sprintf("%s/store/%s-%s", s.root, hash, name)}
}

// top is the path of the last item.
func (s *nixStore) top() string { return s.items[len(s.items)-1].path }

// load has nix-store --import take in what was planned, which is some hundred times as fast as building it, and leaves the same rows
// and files.
func (s *nixStore) load() error {
	c := s.command("nix-store", "--import")
	in, err := c.StdinPipe()
	if err != nil {
		return err
	}
	var failure strings.Builder
	c.Stderr = &failure
	if err := c.Start(); err != nil {
		return err
	}
	w := bufio.NewWriterSize(in, 1<<20)
	for _, it := range s.items {
		it.export(w)
	}
	number(w, 0)
	err = w.Flush()
	in.Close()
	if werr := c.Wait(); werr != nil {
		return fmt.Errorf("nix-store --import: %w\n%s", werr, failure.String())
	}
	return err
}

// export writes the item as nix-store --export does: a nar, a magic number, and what the database is to know.
func (it storeItem) export(w io.Writer) {
	number(w, 1)
	text(w, "nix-archive-1", "(", "type", "directory")
	for _, f := range it.files { // names are in ascending order
		text(w, "entry", "(", "name", f.name, "node", "(", "type", "regular", "contents", string(f.text), ")", ")")
	}
	text(w, ")")
	number(w, 0x4558494e) // "NIXE"
	text(w, it.path)
	number(w, uint64(len(it.refs)))
	text(w, it.refs...)
	text(w, "") // deriver
	number(w, 0)
}

func number(w io.Writer, n uint64) { w.Write(binary.LittleEndian.AppendUint64(nil, n)) }

func text(w io.Writer, ss ...string) {
	for _, s := range ss {
		number(w, uint64(len(s)))
		io.WriteString(w, s)
		w.Write(make([]byte, (8-len(s)%8)%8))
	}
}
