package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"narfold/herder/check"
	"narfold/internal/digest"
	"narfold/internal/narinfo"
	"narfold/internal/publishapi"
	"narfold/internal/storepath"
)

var fullSeed = flag.Uint64("full.seed", 0, "choose contents and levels of the test of a full disk by this number; default: another one each time")

const (
	// onSmallDisk names, in the environment, the folder on which the small disk is to be mounted, by a process that may.
	onSmallDisk = "NARFOLD_TEST_SMALL_DISK"
	diskBytes   = 64 << 20
	keptBytes   = 8 << 20 // publish.reserve
)

// A herder's disk is filled and freed again and again under load, up to its last byte. It says clearly what it cannot do, reading goes
// on, nothing that it acknowledged is lost and nothing half is visible, and when there is room it goes on without having been
// started again.
func TestAFullDiskIsADesignedState(t *testing.T) {
	if dir := os.Getenv(onSmallDisk); dir != "" {
		if err := unix.Mount("tmpfs", dir, "tmpfs", 0, fmt.Sprintf("size=%d,mode=0755", diskBytes)); err != nil {
			t.Fatalf("mount a small disk: %v", err)
		}
		fullDisk(t, dir)
		return
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	// In namespaces of its own whoever may make them is root, and the disk is gone when the last process in them is.
	cmd := exec.CommandContext(t.Context(), self, "-test.run=^"+t.Name()+"$", "-test.v", "-full.seed", strconv.FormatUint(*fullSeed, 10))
	cmd.Env = append(os.Environ(), onSmallDisk+"="+t.TempDir())
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWUSER | unix.CLONE_NEWNS,
		UidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Geteuid(), Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getegid(), Size: 1}}}
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("on a small disk in namespaces for users and mounts, which this account must be allowed to make: %v\n%s", err, out)
	}
	t.Logf("%s", out)
}

// smallDisk is a herder on a small disk, and those who work with it.
type smallDisk struct {
	*testing.T
	dir       string
	url       string
	token     string
	tokenFile string
	r         *rand.Rand // of the goroutine that runs the test

	mu      sync.Mutex
	acked   []parcel
	answers map[int]int // how many of each status, to what was put
	looks   int         // how often something published was read whole
}

func fullDisk(t *testing.T, dir string) {
	seed := *fullSeed
	if seed == 0 {
		seed = rand.Uint64()
	}
	t.Logf("-full.seed=%d", seed)
	state := filepath.Join(dir, "state")
	config := spit(t, filepath.Join(t.TempDir(), "narfold.toml"), fmt.Appendf(nil, "state = %q\nlisten = ['127.0.0.1:0']\n[publish]\nreserve = %d\n[keys]\nhost = 'full.example'\n", state, keptBytes))
	d := &smallDisk{T: t, dir: dir, r: rand.New(rand.NewPCG(seed, 0)), answers: map[int]int{}, tokenFile: filepath.Join(t.TempDir(), "token")}
	must(t, nil, "token", "create", "--state", state, "--scope", "publish", "--out", d.tokenFile)
	d.token = strings.TrimSpace(string(slurp(t, d.tokenFile)))
	herder := startService(t, serviceOptions{args: []string{"--config", config}})
	d.url = herder.url()

	var lists [3][]parcel
	for i := range lists {
		lists[i] = d.parcels(fmt.Sprintf("raw%d", i), 25, 200<<10)
	}
	pushed := d.parcels("pushed", 25, 100<<10)
	last := d.parcels("last", 1, 100<<10)
	pushCache, lastCache := d.cache(pushed), d.cache(last)

	small, spooled, slow := d.parcels("small", 60, 2<<10), d.parcels("spooled", 1, 4<<20)[0], d.parcels("slow", few+1, 300<<10)
	d.fullToTheLastByte(small, spooled)
	d.fewAtATime(filepath.Join(state, "incoming"), slow)

	planned := slices.Concat(append(lists[:], pushed, last)...)
	reading, stopReading := context.WithCancel(t.Context())
	var readers, uploaders sync.WaitGroup
	for i := range 2 {
		r := rand.New(rand.NewPCG(seed, uint64(10+i)))
		readers.Go(func() { d.read(reading, r, planned) })
	}
	for i, list := range lists {
		r := rand.New(rand.NewPCG(seed, uint64(20+i)))
		uploaders.Go(func() { d.upload(r, list) })
	}
	uploaders.Go(func() { d.push(pushCache, pushed) })
	d.fillAndFree()
	uploaders.Wait() // all there is to upload has been, by the herder that was started in the beginning

	d.waitForRoom(lastCache)
	stopReading()
	readers.Wait()
	d.mu.Lock()
	d.acked = append(d.acked, last...)
	d.mu.Unlock()
	d.holds(planned)
	d.clean(config, state)
	if code := herder.stop(); code != 0 { // it lives, so that nobody has started another one
		t.Errorf("herder ended with exit code %d", code)
	}
	t.Logf("answers to what was put: %v; %d items acknowledged; something published was read whole %d times", d.answers, len(d.acked), d.looks)
	for _, status := range []int{http.StatusCreated, http.StatusTooManyRequests, http.StatusInsufficientStorage} {
		if d.answers[status] == 0 {
			t.Errorf("nothing was answered with %d: this test has not filled the disk", status)
		}
	}
}

// parcels makes n items with at most size bytes, none of which can be compressed, each but the first with a reference to the one before.
func (d *smallDisk) parcels(name string, n, size int) (all []parcel) {
	for i := range n {
		contents := make([]byte, size/8+d.r.IntN(size-size/8))
		for j := range contents {
			contents[j] = byte(d.r.Uint32())
		}
		var refs []storepath.Base
		if i > 0 {
			refs = append(refs, all[i-1].path.Base)
		}
		all = append(all, pack(d.T, string(storepath.Nix), name+"-"+strconv.Itoa(i), string(contents), nil, refs...))
	}
	return all
}

// cache writes a binary cache of items and returns its folder.
func (d *smallDisk) cache(ps []parcel) string {
	dir := d.TempDir()
	if err := os.Mkdir(filepath.Join(dir, "nar"), 0o755); err != nil {
		d.Fatal(err)
	}
	spit(d.T, filepath.Join(dir, "nix-cache-info"), []byte("StoreDir: /nix/store\n"))
	for _, p := range ps {
		spit(d.T, filepath.Join(dir, "nar", p.name), p.nar)
		spit(d.T, filepath.Join(dir, string(p.path.HashPart())+".narinfo"), p.narinfo)
	}
	return dir
}

// leave fills the disk, or frees it, so that about n bytes are free; with -1 all that the herder does not use.
func (d *smallDisk) leave(n int64) {
	d.Helper()
	f, err := os.OpenFile(filepath.Join(d.dir, "filling"), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		d.Fatal(err)
	}
	defer f.Close()
	if n < 0 {
		n = diskBytes
	}
	for range 20 {
		st, err := f.Stat()
		if err != nil {
			d.Fatal(err)
		}
		// The herder uses the disk meanwhile, so that this may come too late.
		size := max(st.Size()+freeBytes(d.T, d.dir)-n, 0)
		if size <= st.Size() {
			err = f.Truncate(size)
		} else if err = unix.Fallocate(int(f.Fd()), 0, 0, size); err == unix.ENOSPC {
			continue
		}
		if err != nil {
			d.Fatalf("leave %d bytes: %v", n, err)
		}
		return
	}
}

// put puts something, holds the answer to what was promised, and returns its status.
func (d *smallDisk) put(path string, body []byte) (status int, said publishapi.Error) {
	return d.putFrom(path, bytes.NewReader(body), int64(len(body)))
}

func (d *smallDisk) putFrom(path string, body io.Reader, size int64) (status int, said publishapi.Error) {
	req, err := http.NewRequestWithContext(d.Context(), http.MethodPut, d.url+path, body)
	if err != nil {
		d.Error(err)
		return 0, said
	}
	req.ContentLength = size
	req.SetBasicAuth("publisher", d.token)
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		d.Errorf("PUT %s: %v", path, err)
		return 0, said
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		d.Errorf("PUT %s: %v", path, err)
	}
	d.mu.Lock()
	d.answers[resp.StatusCode]++
	d.mu.Unlock()
	if resp.StatusCode == http.StatusCreated {
		return resp.StatusCode, said
	}
	if err := json.Unmarshal(text, &said); err != nil || said.Message == "" {
		d.Errorf("PUT %s: %s with the body %q", path, resp.Status, text)
	}
	after, err := strconv.Atoi(resp.Header.Get("Retry-After"))
	switch {
	case resp.StatusCode == http.StatusTooManyRequests && said.Code == "busy" && err == nil && after >= 1 && after <= 5:
	case resp.StatusCode == http.StatusInsufficientStorage && said.Code == "full" && err == nil && after >= 2 && after <= 120:
	case resp.StatusCode == http.StatusConflict && said.Code == "no-nar":
	default:
		d.Errorf("PUT %s: %s, Retry-After %q: %s", path, resp.Status, resp.Header.Get("Retry-After"), text)
	}
	return resp.StatusCode, said
}

func (d *smallDisk) putNar(p parcel) int {
	status, _ := d.put("/nar/"+p.name, p.nar)
	return status
}

func (d *smallDisk) putNarinfo(p parcel) (int, publishapi.Error) {
	status, said := d.put("/"+string(p.path.HashPart())+".narinfo", p.narinfo)
	if status == http.StatusCreated {
		d.mu.Lock()
		d.acked = append(d.acked, p)
		d.mu.Unlock()
	}
	return status, said
}

// fullToTheLastByte fills the disk when nars have come, and has them published: first the catalogue has no room and then the spool.
func (d *smallDisk) fullToTheLastByte(small []parcel, large parcel) {
	for _, p := range append(slices.Clone(small), large) {
		if status := d.putNar(p); status != http.StatusCreated {
			d.Fatalf("nar of %s: status %d while there is room", p.path, status)
		}
	}
	d.leave(0)
	ready := get(d.T, d.url+"/readyz")
	if ready.status != http.StatusOK || !strings.HasPrefix(ready.body, "ready\nuploads are refused: ") {
		d.Errorf("without room: %d %s", ready.status, ready.body)
	}
	if status := d.putNar(d.parcels("late", 1, 1<<10)[0]); status != http.StatusInsufficientStorage {
		d.Errorf("a nar without room: status %d", status)
	}
	catalogueFull := false
	for _, p := range small[:20] {
		status, said := d.putNarinfo(p)
		if status == http.StatusCreated {
			d.leave(0) // the file of the catalogue's journal had room in it
			continue
		}
		catalogueFull = catalogueFull || strings.Contains(said.Message, "no room for the catalogue")
		break
	}
	if !catalogueFull {
		d.Error("the catalogue never said that it had no room")
	}
	d.leave(256 << 10) // enough for the catalogue, and too little for the nar, which has twice as much at least
	if status, said := d.putNarinfo(large); status != http.StatusInsufficientStorage || !strings.Contains(said.Message, "no space left on device") {
		d.Errorf("narinfo of a nar for which there is no room: status %d, %+v", status, said)
	}
	d.leave(-1)
	for _, p := range append(slices.Clone(small), large) {
		if status, said := d.putNarinfo(p); status != http.StatusCreated {
			d.Errorf("narinfo of %s, with room again: status %d, %+v", p.path, status, said)
		}
	}
}

// few is how many uploads are taken at a time while room is scarce.
const few = 2

// fewAtATime has uploads received slowly while room is scarce, so that one more has to wait for them.
func (d *smallDisk) fewAtATime(incoming string, slow []parcel) {
	d.leave(keptBytes * 3 / 2)
	var under sync.WaitGroup
	var rest []func()
	for _, p := range slow[:few] {
		r, w := io.Pipe()
		under.Go(func() {
			if status, _ := d.putFrom("/nar/"+p.name, r, int64(len(p.nar))); status != http.StatusCreated {
				d.Errorf("a slow upload: status %d", status)
			}
		})
		if _, err := w.Write(p.nar[:1000]); err != nil {
			d.Fatal(err)
		}
		rest = append(rest, func() {
			if _, err := w.Write(p.nar[1000:]); err != nil {
				d.Error(err)
			}
			w.Close()
		})
	}
	wait(d.T, "the slow uploads to begin", func() bool {
		names, err := filepath.Glob(filepath.Join(incoming, ".incoming-*"))
		return err == nil && len(names) == few
	})
	if status := d.putNar(slow[few]); status != http.StatusTooManyRequests {
		d.Errorf("one more than a few uploads: status %d", status)
	}
	if ready := get(d.T, d.url+"/readyz").body; !strings.HasPrefix(ready, "ready\nuploads are slowed: ") {
		d.Errorf("when room is scarce: %s", ready)
	}
	for _, finish := range rest {
		finish()
	}
	under.Wait()
	if status := d.putNar(slow[few]); status != http.StatusCreated {
		d.Errorf("when the others are done: status %d", status)
	}
	for _, p := range slow {
		if status, said := d.putNarinfo(p); status != http.StatusCreated {
			d.Errorf("narinfo of %s: status %d, %+v", p.path, status, said)
		}
	}
}

// fillAndFree lets the disk be as full as it may come, for as long as it takes that something happens.
func (d *smallDisk) fillAndFree() {
	levels := []int64{0, 0, 64 << 10, 1 << 20, keptBytes / 2, keptBytes - 100<<10, keptBytes + 300<<10, keptBytes * 3 / 2, 2*keptBytes - 1<<20, 3 * keptBytes, -1}
	tick := time.NewTicker(80 * time.Millisecond)
	defer tick.Stop()
	for range 4 {
		for _, i := range d.r.Perm(len(levels)) {
			d.leave(levels[i])
			<-tick.C
		}
	}
	d.leave(-1)
}

// upload puts items by hand, without the patience that is asked for.
func (d *smallDisk) upload(r *rand.Rand, list []parcel) {
	pause := func() {
		select {
		case <-time.After(time.Duration(5+r.IntN(45)) * time.Millisecond):
		case <-d.Context().Done():
		}
	}
	for _, p := range list {
		for nar, done := false, false; !done && d.Context().Err() == nil && !d.Failed(); pause() {
			if !nar {
				nar = d.putNar(p) == http.StatusCreated
				continue
			}
			status, _ := d.putNarinfo(p)
			done, nar = status == http.StatusCreated, status != http.StatusConflict
		}
	}
}

// push runs narfold push until it has sent all.
func (d *smallDisk) push(cache string, ps []parcel) {
	for d.Context().Err() == nil && !d.Failed() {
		_, stderr, code := narfoldIn(d.Context(), nil, "push", "--quiet", "--to", d.url, "--token-file", d.tokenFile, "--uploads", "4", "--patience", "3s", cache)
		switch {
		case code == exitDone:
			d.mu.Lock()
			d.acked = append(d.acked, ps...)
			d.mu.Unlock()
			return
		case code != exitUnavailable || !strings.Contains(stderr, "given up: nothing succeeded for ") || !regexp.MustCompile(`(?m)^  try: .*what was sent is not sent again`).MatchString(stderr):
			d.Errorf("push ended with exit code %d: %s", code, stderr)
		}
	}
}

// waitForRoom starts a push while there is a little too little room, and makes room when it has been told so: it goes on by itself.
func (d *smallDisk) waitForRoom(cache string) {
	d.leave(keptBytes - 64<<10)
	refused := d.refused()
	pushing := make(chan string, 1)
	go func() {
		_, stderr, code := narfoldIn(d.Context(), nil, "push", "--quiet", "--to", d.url, "--token-file", d.tokenFile, "--patience", "1m", cache)
		pushing <- fmt.Sprintf("%d %s", code, stderr)
	}()
	wait(d.T, "the push to be refused", func() bool { return d.refused() > refused })
	d.leave(-1)
	if said := <-pushing; !strings.HasPrefix(said, "0 ") || !strings.Contains(said, "the herder has no room") {
		d.Errorf("the push that had to wait: exit code %s", said)
	}
}

// refused returns how many uploads the herder says that it has refused for want of room.
func (d *smallDisk) refused() int {
	d.Helper()
	m := regexp.MustCompile(`(?m)^narfold_uploads_refused_total\{reason="full"\} (\d+)`).FindStringSubmatch(get(d.T, d.url+"/metrics").body)
	if m == nil {
		d.Fatal("the herder does not tell how many uploads it has refused")
	}
	n, err := strconv.Atoi(m[1])
	if err != nil {
		d.Fatal(err)
	}
	return n
}

// read reads items all the time, of which each that is there must be there whole, and each that was acknowledged must be there.
func (d *smallDisk) read(ctx context.Context, r *rand.Rand, planned []parcel) {
	for ctx.Err() == nil && !d.Failed() {
		from := planned
		d.mu.Lock()
		if len(d.acked) > 0 && r.IntN(2) == 0 {
			from = d.acked
		}
		p := from[r.IntN(len(from))]
		acked := slices.ContainsFunc(d.acked, func(q parcel) bool { return q.path == p.path })
		d.mu.Unlock()
		err := d.whole(p)
		if ctx.Err() == nil && err != nil && (acked || err != errAbsent) {
			d.Errorf("read %s, acknowledged %v: %v", p.path, acked, err)
		}
	}
}

var errAbsent = errors.New("is not there")

// whole reads an item with its nar, and asks for its references. It returns errAbsent if the item is not there, and another error if it
// is there in part.
func (d *smallDisk) whole(p parcel) error {
	text, status, err := d.fetch("/" + string(p.path.HashPart()) + ".narinfo")
	switch {
	case err != nil:
		return err
	case status == http.StatusNotFound:
		return errAbsent
	case status != http.StatusOK:
		return fmt.Errorf("its narinfo is answered with %d", status)
	}
	n, err := narinfo.Parse(text)
	if err != nil {
		return err
	}
	if n.StorePath != p.path || len(n.Files) == 0 {
		return fmt.Errorf("its narinfo is\n%s", text)
	}
	for _, f := range n.Files {
		bytes, status, err := d.fetch("/" + f.URL)
		if err != nil || status != http.StatusOK || digest.Of(bytes) != f.FileHash {
			return fmt.Errorf("%s: status %d, %d bytes with the hash %s, want %d with %s: %w", f.URL, status, len(bytes), digest.Of(bytes), f.FileSize, f.FileHash, err)
		}
	}
	for _, ref := range n.References {
		if _, status, err := d.fetch("/" + string(ref.HashPart()) + ".narinfo"); err != nil || status != http.StatusOK {
			return fmt.Errorf("its reference %s is answered with %d: %w", ref, status, err)
		}
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.looks++
	return nil
}

func (d *smallDisk) fetch(path string) (text []byte, status int, err error) {
	req, err := http.NewRequestWithContext(d.Context(), http.MethodGet, d.url+path, nil)
	if err != nil {
		return nil, 0, err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, 0, err
	}
	defer resp.Body.Close()
	text, err = io.ReadAll(resp.Body)
	return text, resp.StatusCode, err
}

// holds fails unless all these were acknowledged, and everything acknowledged is there.
func (d *smallDisk) holds(ps []parcel) {
	d.Helper()
	acked := map[storepath.Path]bool{}
	for _, p := range d.acked {
		acked[p.path] = true
		if err := d.whole(p); err != nil {
			d.Errorf("%s was acknowledged: %v", p.path, err)
		}
	}
	for _, p := range ps {
		if !acked[p.path] && !d.Failed() { // a failure ends the uploads
			d.Errorf("%s was never acknowledged", p.path)
		}
	}
}

// clean fails if anything is damaged, unaccounted for, or left in the folders for what is on its way.
func (d *smallDisk) clean(config, state string) {
	d.Helper()
	stdout, stderr, code := narfold(d.T, nil, "check", "--config", config, "--deep", "--older-than", "0s", "--json", "--quiet")
	var report check.Report
	if err := json.Unmarshal(stdout, &report); err != nil {
		d.Fatalf("check ended with exit code %d: %v: %s", code, err, stderr)
	}
	if code != exitDone || len(report.Found) > 0 || report.Items != int64(len(d.acked)) {
		d.Errorf("check ended with exit code %d, found %v, and counted %d items of %d", code, report.Found, report.Items, len(d.acked))
	}
	for _, pattern := range []string{"incoming/*", "incoming/.*", "spool/*/*"} {
		if names, err := filepath.Glob(filepath.Join(state, pattern)); err != nil || len(names) > 0 {
			d.Errorf("left in %s: %v, %v", pattern, names, err)
		}
	}
}
