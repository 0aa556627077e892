package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"syscall"
	"testing"
	"time"

	"narfold/herder/check"
	"narfold/internal/catalog/sqlite"
	"narfold/internal/objstore"
	"narfold/internal/objstore/dir"
	"narfold/internal/objstore/objstoretest"
	"narfold/internal/objstore/s3"
	"narfold/internal/storepath"
)

var (
	crashSeed  = flag.Uint64("crash.seed", 0, "choose the moments of the crash tests by this number; default: another one each time")
	crashKills = flag.Int("crash.kills", 200, "kill this many imports into each kind of store")
)

// The importing process is killed at random moments. After each kill, what is published is whole, closed and served, and every
// object is accounted for; run again, the import completes; and a check that removes abandoned uploads leaves exactly the objects
// of published items.
func TestAnImportThatIsKilledAtAnyMoment(t *testing.T) {
	seed := *crashSeed
	if seed == 0 {
		seed = rand.Uint64()
	}
	t.Logf("-crash.seed=%d", seed)
	cache := newCrashCache(t, rand.New(rand.NewPCG(seed, 0)))
	program := buildProgram(t)
	t.Run("directory", func(t *testing.T) {
		t.Parallel()
		c := &crashes{T: t, cache: cache, program: program, r: rand.New(rand.NewPCG(seed, 1))}
		c.fresh = c.directoryState
		c.run()
	})
	t.Run("s3", func(t *testing.T) {
		t.Parallel()
		c := &crashes{T: t, cache: cache, program: program, r: rand.New(rand.NewPCG(seed, 2))}
		files := t.TempDir()
		server, err := objstoretest.StartS3(t.Context(), files)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(server.Stop)
		c.fresh = func() *crashState { return c.s3State(server, files) }
		c.run()
	})
}

// buildProgram builds the program as it is installed: it starts in a fraction of the time of this binary, in which the race detector
// is, so that more of the moments are those of an import.
func buildProgram(t *testing.T) string {
	t.Helper()
	program := filepath.Join(t.TempDir(), "narfold")
	build := exec.CommandContext(t.Context(), "go", "build", "-trimpath", "-buildvcs=false", "-o", program, ".")
	build.Env = append(os.Environ(), "CGO_ENABLED=0") // as the Makefile builds it, for what is built already
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("go build: %v: %s", err, out)
	}
	return program
}

// crashes kills imports into one kind of store.
type crashes struct {
	*testing.T
	cache   *crashCache
	program string
	r       *rand.Rand
	fresh   func() *crashState

	prefixes int // of the bucket, in use
	states   int
	whole    time.Duration // how long an import takes that nobody interrupts, as a moving average
	kills    int
	early    int // kills that found nothing published
	partly   int // kills that found some items published and others not
	uploads  int // kills that left objects that are not part of a published item
	complete int // reruns to completion
}

// run alternates between states that are crashed once and states that are crashed again and again.
func (c *crashes) run() {
	for c.kills < *crashKills && !c.Failed() {
		s := c.fresh()
		if c.whole == 0 {
			c.whole = c.completes(s)
			s.drop()
			c.Logf("an import that nobody interrupts takes %v", c.whole.Round(time.Millisecond))
			continue
		}
		c.states++
		times, finish := 1, c.states%12 == 0
		if c.states%12 == 6 {
			times, finish = 10, true
			c.watch(s)
		}
		c.episode(s, times, finish)
	}
	c.Logf("%d kills in %d states: %d before anything was published, %d while items were partly published, %d left objects of unfinished uploads; %d reruns to completion",
		c.kills, c.states, c.early, c.partly, c.uploads, c.complete)
	if !c.Failed() && c.partly < c.kills/10 {
		c.Errorf("only %d of %d kills hit while items were partly published: the moments are badly chosen", c.partly, c.kills)
	}
}

// episode kills imports into s, and lets one complete in the end if that is asked.
func (c *crashes) episode(s *crashState, times int, finish bool) {
	found := seen{}
	for i := 0; i < times && found.published < len(c.cache.items) && c.kills < *crashKills && !c.Failed(); i++ {
		// 1.3 times the whole at first, since a loaded machine may be slow now; less where part of the work is done.
		part := 0.3 + float64(len(c.cache.items)-found.published)/float64(len(c.cache.items))
		killed := c.killed(s, time.Duration(c.r.Float64()*part*float64(c.whole)), i == 0)
		found = s.look()
		switch {
		case !killed:
			if found != (seen{published: len(c.cache.items)}) && i == 0 {
				c.Errorf("the import came to its end and left %+v", found)
			}
			continue
		case found.published == 0:
			c.early++
		case found.published < len(c.cache.items):
			c.partly++
		}
		c.kills++
		if found.uploads > 0 {
			c.uploads++
		}
	}
	if finish && !c.Failed() {
		c.completes(s)
		c.complete++
	}
	if s.watcher != nil {
		s.watcher.Close()
	}
	s.drop()
}

func (s *crashState) importArgs() []string {
	return append(append([]string{"import", "--quiet", "--json", "--key", s.cache.public}, s.flags...), s.cache.dir)
}

// killed runs an import and kills it after a while. It returns false if the import came to its end before.
func (c *crashes) killed(s *crashState, after time.Duration, first bool) bool {
	c.Helper()
	cmd := exec.CommandContext(c.Context(), c.program, s.importArgs()...)
	var said bytes.Buffer
	cmd.Stderr = &said
	begun := time.Now()
	if err := cmd.Start(); err != nil {
		c.Fatal(err)
	}
	killer := time.AfterFunc(after, func() { cmd.Process.Kill() })
	err := cmd.Wait()
	killer.Stop()
	if err == nil {
		if first {
			c.whole = (3*c.whole + time.Since(begun)) / 4
		}
		return false
	}
	status, ok := cmd.ProcessState.Sys().(syscall.WaitStatus)
	if !ok || !status.Signaled() || status.Signal() != syscall.SIGKILL {
		c.Fatalf("import after %d kills: %v: %s", c.kills, err, &said)
	}
	return true
}

// watch keeps a connection to the catalogue open, as a running herder does.
func (c *crashes) watch(s *crashState) {
	c.Helper()
	if err := os.MkdirAll(s.dir, 0o755); err != nil {
		c.Fatal(err)
	}
	var err error
	if s.watcher, err = sqlite.Open(c.Context(), filepath.Join(s.dir, "catalogue.db")); err != nil {
		c.Fatal(err)
	}
}

// completes runs the import to its end, which takes what it returns, and checks that nothing is missing, and nothing too much.
func (c *crashes) completes(s *crashState) time.Duration {
	c.Helper()
	before := s.look()
	begun := time.Now()
	cmd := exec.CommandContext(c.Context(), c.program, s.importArgs()...)
	var said bytes.Buffer
	cmd.Stderr = &said
	out, err := cmd.Output()
	took := time.Since(begun)
	var sum importSummary
	if err := errors.Join(err, json.Unmarshal(out, &sum)); err != nil {
		c.Fatalf("import: %v: %s\n%s", err, out, said.Bytes())
	}
	total := int64(len(c.cache.items))
	if sum.Published != total-int64(before.published) || sum.Present != int64(before.published) {
		c.Errorf("%d were published before, of %d; the import says %+v", before.published, total, sum)
	}
	if after := s.look(); after.published != int(total) {
		c.Errorf("%d of %d items are published", after.published, total)
	}
	if r := c.check(s, "--deep"); r.Damage() > 0 || r.Expanded != r.Files || r.Items != total {
		c.Errorf("check --deep: %+v", r)
	}
	if r := c.check(s, "--remove-abandoned", "--older-than", "0s"); r.Uploads != 0 || r.Objects != r.Files {
		c.Errorf("check --remove-abandoned: %+v", r)
	}
	c.exactly(s)
	return took
}

// check runs the command, which must find nothing wrong.
func (c *crashes) check(s *crashState, flags ...string) (r check.Report) {
	c.Helper()
	cmd := exec.CommandContext(c.Context(), c.program, slices.Concat([]string{"check", "--json", "--quiet"}, s.flags, flags)...)
	out, err := cmd.Output()
	if err := errors.Join(err, json.Unmarshal(out, &r)); err != nil {
		c.Fatalf("check %v: %v: %s", flags, err, out)
	}
	return r
}

// exactly checks that the store holds the objects of published items and no other, and that no process has left anything else.
func (c *crashes) exactly(s *crashState) {
	c.Helper()
	cat, err := sqlite.Open(c.Context(), filepath.Join(s.dir, "catalogue.db"))
	if err != nil {
		c.Fatal(err)
	}
	defer cat.Close()
	objects, closer := s.open()
	defer closer.Close()
	var published, stored []objstore.Key
	for f, err := range cat.Keys(c.Context()) {
		if err != nil {
			c.Fatal(err)
		}
		published = append(published, f.Key)
	}
	for o, err := range objects.List(c.Context(), "") {
		if err != nil {
			c.Fatal(err)
		}
		stored = append(stored, o.Key)
	}
	if !slices.Equal(published, stored) {
		c.Errorf("published are %d files, stored are %d objects\n%v\n%v", len(published), len(stored), published, stored)
	}
	var litter []string
	err = filepath.WalkDir(s.dir, func(name string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			rel, _ := filepath.Rel(s.dir, name)
			if known := map[string]bool{"catalogue.db": true, "catalogue.db-wal": true, "catalogue.db-shm": true, "check.lock": true, "objects/.narfold-tmp/locks": true}; !known[rel] &&
				!slices.Contains(stored, objstore.Key(rel[min(len(rel), len("objects/")):])) {
				litter = append(litter, rel)
			}
		}
		return err
	})
	if err != nil || len(litter) > 0 {
		c.Errorf("left in the state folder: %v, %v", litter, err)
	}
}

func (c *crashes) newState(name string) *crashState {
	return &crashState{T: c.T, cache: c.cache, dir: name, looked: make(map[objstore.Key]bool), asked: make(map[storepath.Base]bool)}
}

// directoryState is an embedded deployment that is not there yet.
func (c *crashes) directoryState() *crashState {
	folder := c.TempDir()
	s := c.newState(filepath.Join(folder, "state"))
	s.drop = func() { os.RemoveAll(folder) }
	s.flags = []string{"--state", s.dir}
	s.open = func() (crashObjects, io.Closer) {
		r, err := dir.OpenReader(filepath.Join(s.dir, "objects"))
		if errors.Is(err, objstore.ErrNotFound) {
			// The import was killed before it had made the folder, or something else has.
			if err := os.MkdirAll(filepath.Join(s.dir, "objects"), 0o755); err != nil {
				c.Fatal(err)
			}
			r, err = dir.OpenReader(filepath.Join(s.dir, "objects"))
		}
		if err != nil {
			c.Fatal(err)
		}
		return r, r
	}
	return s
}

// s3State is a deployment whose objects are in a part of a bucket of its own, which the server keeps as files.
func (c *crashes) s3State(server *objstoretest.Server, files string) *crashState {
	c.Helper()
	folder := c.TempDir()
	s := c.newState(filepath.Join(folder, "state"))
	c.prefixes++
	prefix := fmt.Sprintf("state-%d", c.prefixes)
	s.drop = func() { os.RemoveAll(folder); os.RemoveAll(filepath.Join(files, "data", server.Bucket, prefix)) }
	config, credentials := filepath.Join(folder, "narfold.toml"), filepath.Join(folder, "credentials")
	writeAll(c.T, credentials, []byte(server.AccessKey+"\n"+server.SecretKey+"\n"))
	writeAll(c.T, config, fmt.Appendf(nil, `state = %q
[objects]
endpoint = %q
bucket = %q
prefix = %q
region = %q
path_style = "path"
credentials_file = %q
`, s.dir, server.Endpoint, server.Bucket, prefix, server.Region, credentials))
	s.flags = []string{"--config", config}
	s.open = func() (crashObjects, io.Closer) {
		store, err := s3.New(server.Config(prefix))
		if err != nil {
			c.Fatal(err)
		}
		return store, io.NopCloser(nil)
	}
	return s
}
