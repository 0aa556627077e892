package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"narfold/herder/publish"
	"narfold/herder/room"
	"narfold/internal/digest"
	"narfold/internal/narinfo"
	"narfold/internal/storepath"
)

// portioned is a publisher that tells its runs apart, and reports only when it has all.
type portioned struct{ runs [][]string }

func (p *portioned) Run(ctx context.Context, jobs iter.Seq2[publish.Job, error], report func(publish.Result)) error {
	var all []storepath.Path
	var names []string
	for job, err := range jobs {
		if err != nil {
			return err
		}
		all = append(all, job.Narinfo.StorePath)
		names = append(names, job.Narinfo.StorePath.Name())
	}
	for _, path := range all {
		report(publish.Result{Path: path})
	}
	p.runs = append(p.runs, names)
	return nil
}

// freeBytes is what is free on the file system of dir.
func freeBytes(t *testing.T, dir string) int64 {
	t.Helper()
	var s unix.Statfs_t
	if err := unix.Statfs(dir, &s); err != nil {
		t.Fatal(err)
	}
	return int64(s.Bavail) * s.Bsize
}

func TestAnImportLeavesTheReserve(t *testing.T) {
	dir := t.TempDir()
	free := freeBytes(t, dir)
	// Parts of a quarter of what may be used: other things happen on this file system too.
	reserve, unit := free/2, free/8
	listed := func(sizes ...int64) iter.Seq2[publish.Job, error] {
		return func(yield func(publish.Job, error) bool) {
			for i, size := range sizes {
				name := fmt.Sprint("i", i)
				base := storepath.Base(digest.Of([]byte(name)).Base32()[:storepath.HashLen] + "-" + name)
				if !yield(publish.Job{Narinfo: &narinfo.Narinfo{StorePath: storepath.Path{Dir: storepath.Nix, Base: base}, NarSize: size * unit}}, nil) {
					return
				}
			}
		}
	}
	for name, c := range map[string]struct {
		reserve int64
		sizes   []int64
		have    bool
		runs    string
		want    error
	}{
		"all fit":                              {reserve, []int64{1, 1, 1}, false, "[[i0 i1 i2]]", nil},
		"one after the other fits":             {reserve, []int64{2, 3, 2}, false, "[[i0] [i1] [i2]]", nil},
		"two portions":                         {reserve, []int64{1, 2, 2, 1}, false, "[[i0 i1] [i2 i3]]", nil},
		"one that does not":                    {reserve, []int64{1, 5, 1}, false, "[[i0] []]", errReserve},
		"no room, and all is there":            {free * 4, []int64{1, 5, 1}, true, "[[i0 i1 i2]]", nil},
		"no room from the beginning":           {free * 4, []int64{1}, false, "[[]]", errReserve},
		"without a reserve nobody looks":       {0, []int64{100}, false, "[[i0]]", nil},
		"nothing to do leaves nothing to want": {free * 4, nil, false, "[[]]", nil},
	} {
		t.Run(name, func(t *testing.T) {
			p := &portioned{}
			r := &reserving{to: p, room: room.Room{Folders: []string{dir}, Reserve: c.reserve}, missing: func(_ context.Context, hs []storepath.HashPart) ([]storepath.HashPart, error) {
				if c.have {
					return nil, nil
				}
				return hs, nil
			}}
			reported := 0
			err := r.Run(t.Context(), listed(c.sizes...), func(publish.Result) { reported++ })
			if !errors.Is(err, c.want) || (err == nil) != (c.want == nil) {
				t.Errorf("ended with %v, want %v", err, c.want)
			}
			if got := fmt.Sprint(p.runs); got != c.runs || reported != len(slices.Concat(p.runs...)) {
				t.Errorf("ran %s, and reported %d; want %s", got, reported, c.runs)
			}
		})
	}
	source := errors.New("source is gone")
	r := &reserving{to: &portioned{}, room: room.Room{Folders: []string{dir}, Reserve: 1}}
	if err := r.Run(t.Context(), func(yield func(publish.Job, error) bool) { yield(publish.Job{}, source) }, nil); !errors.Is(err, source) {
		t.Errorf("an error of the source is %v", err)
	}
}

func TestAnImportWithoutRoomSaysWhatToDo(t *testing.T) {
	file, state := configFile(t, "[publish]\nreserve = 1152921504606846976\n")
	cache, _ := cacheOf(t, "kept", "no room for it")
	_, stderr, code := narfold(t, nil, "import", "--config", file, cache)
	if code != exitUnavailable || !strings.Contains(stderr, "kept in reserve (publish.reserve)") || !strings.Contains(stderr, "try: make room, or a smaller reserve") {
		t.Errorf("exit code %d: %s", code, stderr)
	}
	if objects, err := filepath.Glob(filepath.Join(state, "objects", "nar", "*", "*")); err != nil || len(objects) != 0 {
		t.Errorf("stored are %v, %v", objects, err)
	}
	spit(t, file, []byte("state = '"+state+"'\n[publish]\nreserve = '1MiB'\n"))
	var sum importSummary
	if err := json.Unmarshal(must(t, nil, "import", "--json", "--config", file, cache), &sum); err != nil || sum.Published != 1 {
		t.Errorf("with a smaller reserve: %+v, %v", sum, err)
	}
}
