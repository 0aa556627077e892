package main

import (
	"bytes"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"narfold/internal/catalog/postgres/postgrestest"
	"narfold/internal/narinfo"
	"narfold/internal/objstore/objstoretest"
	"narfold/internal/storepath"
)

// Two herders, one PostgreSQL, one bucket. One herder is killed again and again while both are sent items; what either has
// acknowledged the other serves, whole and closed, and in the end both tell the same feed.
func TestTwoHerdersOfOneDatabaseAndBucketOneKilledAtRandom(t *testing.T) {
	const kills, items = 12, 300
	bucket, database := objstoretest.S3(t), postgrestest.For(t)
	keys := t.TempDir()
	must(t, nil, "key", "generate", "--dialect", "nix", "--name", "farm-1", "--secret", keys+"/sec", "--public", keys+"/pub")
	credentials := spit(t, filepath.Join(keys, "credentials"), []byte(bucket.AccessKey+"\n"+bucket.SecretKey+"\n"))
	url := database.URL(database.Database(t))
	config := func(feedKey string) string {
		file, state := configFile(t, fmt.Sprintf("[publish]\nreserve = '0'\n[catalogue]\ndatabase = %q\n[keys]\nsign = [%q]\n[objects]\nendpoint = %q\nbucket = %q\nregion = %q\ncredentials_file = %q\n",
			url, keys+"/sec", bucket.Endpoint, bucket.Bucket, bucket.Region, credentials))
		if feedKey != "" { // of the first herder: one feed has one key
			if err := os.CopyFS(filepath.Join(state, "keys"), os.DirFS(feedKey)); err != nil {
				t.Fatal(err)
			}
		}
		return file
	}
	first := config("")
	must(t, nil, "token", "create", "--config", first, "--scope", "publish", "--out", keys+"/token")
	token, err := os.ReadFile(keys + "/token")
	if err != nil {
		t.Fatal(err)
	}
	a := startService(t, serviceOptions{args: []string{"--config", first}})
	second := config(filepath.Join(filepath.Dir(first), "state", "keys"))
	b := startService(t, serviceOptions{args: []string{"--config", second}})

	f := &twoHerders{t: t, token: strings.TrimSpace(string(token)), urls: [2]string{a.url(), b.url()}, acked: map[storepath.Base]parcel{}}
	root := pack(t, string(storepath.Nix), "root", "the root", nil)
	if !f.upload(0, root) {
		t.Fatal("the root is not taken")
	}
	parcels := make([]parcel, items)
	for i := range parcels {
		// Some share a nar, and all reference the root.
		parcels[i] = pack(t, string(storepath.Nix), fmt.Sprint("item-", i), strings.Repeat(fmt.Sprint("contents ", i/2), 1000), nil, root.path.Base)
	}
	var uploaders sync.WaitGroup
	sent := make(chan struct{})
	for u := range 3 {
		r := rand.New(rand.NewPCG(7, uint64(u)))
		uploaders.Go(func() {
			for _, i := range r.Perm(items) {
				for !f.upload(r.IntN(2), parcels[i]) {
					time.Sleep(time.Duration(r.IntN(20)) * time.Millisecond)
				}
			}
		})
	}
	go func() { uploaders.Wait(); close(sent) }()
	r := rand.New(rand.NewPCG(8, 8))
	killed := 0
	for ended := false; !ended; {
		select {
		case <-sent:
			ended = true
		case <-time.After(time.Duration(30+r.IntN(200)) * time.Millisecond):
			if killed == kills {
				<-sent
				continue
			}
			if err := b.cmd.Process.Kill(); err != nil {
				t.Fatal(err)
			}
			<-b.ended
			killed++
			f.whole(0)
			b = startService(t, serviceOptions{args: []string{"--config", second}})
			f.mu.Lock()
			f.urls[1] = b.url()
			f.mu.Unlock()
		}
	}
	t.Logf("%d kills, %d items", killed, len(f.acked))
	if len(f.acked) != items+1 || killed < 4 {
		t.Errorf("%d items acknowledged with %d kills", len(f.acked), killed)
	}
	f.whole(0)
	f.whole(1)
	wait(t, "both to tell one feed", func() bool {
		one, two := strings.Split(get(t, f.urls[0]+"/feed/head").body, "\n"), strings.Split(get(t, f.urls[1]+"/feed/head").body, "\n")
		return len(one) > 3 && len(two) > 3 && one[1] == two[1] && one[2] == two[2] && one[3] == two[3] && one[2] == fmt.Sprintf("sequence %d", items+1)
	})
	for _, s := range []*service{a, b} {
		if code := s.stop(); code != 0 {
			t.Errorf("exit code %d", code)
		}
	}
	checked(t, exitDone, []string{fmt.Sprintf("%d published items", items+1)}, "--config", first, "--deep", "--quiet")
}

type twoHerders struct {
	t     *testing.T
	token string

	mu    sync.Mutex
	urls  [2]string
	acked map[storepath.Base]parcel
}

// upload puts an item on one of the herders, and reports whether that has acknowledged it.
func (f *twoHerders) upload(which int, p parcel) bool {
	for path, body := range map[string][]byte{"/nar/" + p.name: p.nar} {
		if status, _ := f.ask(http.MethodPut, which, path, body); status != http.StatusCreated {
			return false
		}
	}
	status, said := f.ask(http.MethodPut, which, "/"+string(p.path.HashPart())+".narinfo", p.narinfo)
	if status != http.StatusCreated {
		// A nar that was put on a herder that was killed since is not there.
		if status != 0 && status != http.StatusConflict && status < 500 {
			f.t.Errorf("narinfo of %s: %d %s", p.path, status, said)
		}
		return false
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.acked[p.path.Base] = p
	return true
}

// ask returns the status 0 if the herder is not there, or has gone meanwhile.
func (f *twoHerders) ask(method string, which int, path string, body []byte) (int, string) {
	f.mu.Lock()
	url := f.urls[which] + path
	f.mu.Unlock()
	req, err := http.NewRequestWithContext(f.t.Context(), method, url, bytes.NewReader(body))
	if err != nil {
		f.t.Error(err)
		return 0, ""
	}
	req.SetBasicAuth("publisher", f.token)
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0, ""
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		return 0, ""
	}
	return resp.StatusCode, string(text)
}

// whole asks a herder for all that either has acknowledged, and what that references.
func (f *twoHerders) whole(which int) {
	f.t.Helper()
	f.mu.Lock()
	acked := make([]parcel, 0, len(f.acked))
	for _, p := range f.acked {
		acked = append(acked, p)
	}
	f.mu.Unlock()
	for _, p := range acked {
		status, text := f.ask(http.MethodGet, which, "/"+string(p.path.HashPart())+".narinfo", nil)
		n, err := narinfo.Parse([]byte(text))
		if status != http.StatusOK || err != nil {
			f.t.Errorf("%s was acknowledged: %d, %v", p.path, status, err)
			continue
		}
		for _, ref := range n.References {
			if status, _ := f.ask(http.MethodGet, which, "/"+string(ref.HashPart())+".narinfo", nil); status != http.StatusOK {
				f.t.Errorf("%s references %s, which is answered %d", p.path, ref, status)
			}
		}
		if status, nar := f.ask(http.MethodGet, which, "/"+n.Files[0].URL, nil); status != http.StatusOK || nar != string(p.nar) {
			f.t.Errorf("nar of %s: status %d, %d bytes", p.path, status, len(nar))
		}
	}
}
