package main

import (
	"bufio"
	"fmt"
	"math/rand/v2"
	"net/http"
	"os/exec"
	"path"
	"path/filepath"
	"strings"
	"time"
)

// serving measures the herder against nginx over the same bytes.
func (b *bench) serving() error {
	b.report.section("Serving: the herder against nginx", `
`+"`narfold herder run`"+` over what `+"`narfold import`"+` took from a real Nix store: 435 small items, a nar of 100 MB and 64 of 1 MB, of random
bytes. nginx serves the same bytes from a directory, with 2 workers, sendfile, tcp_nopush, an open_file_cache (of misses as well),
connections without end and nothing logged. All over loopback. Narinfos are asked for in turn. "single" and "misses" are `+"`wrk -t1 -c64`"+`;
"pipelined, Guix" is a Go client that does as guix substitute: a new connection, 1000 requests in one write, 1000 answers;
"pipelined, wrk" is wrk with 16 connections and 32 requests at a time in each. Nars are fetched by 4 Go clients that throw them away.
The clients have the same processors as the servers. CPU is that of the server, user and system, from /proc, in milliseconds per 1000
requests or MB.`)
	state, narinfos, nars, err := b.servedStore()
	if err != nil {
		return err
	}
	herder, err := startHerder(b.narfold, state)
	if err != nil {
		return err
	}
	defer herder.stop()
	paths := map[string][]string{}
	if err := narPaths(herder, nars, paths); err != nil {
		return err
	}
	root := filepath.Join(b.disk, "nginx-root")
	all := append([]string{"/nix-cache-info"}, narinfos...)
	if err := herder.mirror(root, append(append(all, paths["1 MB"]...), paths["100 MB"]...)); err != nil {
		return err
	}
	nginx, err := startNginx(root, filepath.Join(b.disk, "nginx-state"))
	if err != nil {
		return err
	}
	defer nginx.stop()

	script, absent := filepath.Join(b.disk, "wrk.lua"), missing()
	b.report.table("load", "", "per second", "CPU ms per 1000", "Narfold's rate ÷ nginx's", "Narfold's CPU ÷ nginx's")
	for _, l := range []struct {
		what string
		run  func(s *server, d time.Duration) (float64, time.Duration, error)
	}{
		{"narinfos, single", func(s *server, d time.Duration) (float64, time.Duration, error) {
			return wrk(s, script, d, 64, 1, narinfos, true)
		}},
		{"misses (404), single", func(s *server, d time.Duration) (float64, time.Duration, error) {
			return wrk(s, script, d, 64, 1, absent, false)
		}},
		{"narinfos, pipelined, Guix", func(s *server, d time.Duration) (float64, time.Duration, error) { return guix(s, d, narinfos) }},
		{"narinfos, pipelined, wrk", func(s *server, d time.Duration) (float64, time.Duration, error) {
			return wrk(s, script, d, 16, 32, narinfos, true)
		}},
		{"MB of nars of 100 MB", func(s *server, d time.Duration) (float64, time.Duration, error) {
			return download(s, d, 4, paths["100 MB"])
		}},
		{"MB of nars of 1 MB", func(s *server, d time.Duration) (float64, time.Duration, error) {
			return download(s, d, 4, paths["1 MB"])
		}},
	} {
		var peers []peer
		for _, s := range []*server{herder, nginx} {
			if _, _, err := l.run(s, time.Second); err != nil { // warm
				return fmt.Errorf("%s: %w", l.what, err)
			}
			peers = append(peers, peer{s.name, func(int) (sample, error) {
				return loaded(s, func() (float64, time.Duration, error) { return l.run(s, b.seconds) })
			}})
		}
		samples, err := alternate(b.rounds, peers)
		if err != nil {
			return fmt.Errorf("%s: %w", l.what, err)
		}
		ours, theirs := samples[herder.name], samples[nginx.name]
		perThousand := func(s []sample) string {
			return spreadOf(len(s), func(i int) float64 { return s[i].cost() * 1e6 }).String()
		}
		b.report.row(l.what, herder.name, rates(ours).String(), perThousand(ours), against(ours, theirs, sample.rate).bold(), against(ours, theirs, sample.cost).bold())
		b.report.row("", nginx.name, rates(theirs).String(), perThousand(theirs), "", "")
	}
	return nil
}

// loaded is a turn of a server: what was done to it, and the CPU that it used meanwhile.
func loaded(s *server, run func() (float64, time.Duration, error)) (sample, error) {
	before, err := s.cpu()
	if err != nil {
		return sample{}, err
	}
	done, wall, err := run()
	if err != nil {
		return sample{}, err
	}
	after, err := s.cpu()
	return sample{done, wall, after - before}, err
}

// servedStore imports what is served, and returns the deployment and the narinfos' paths, and those of the big items.
func (b *bench) servedStore() (state string, narinfos, big []string, err error) {
	nix, err := newNixStore(filepath.Join(b.disk, "served-nix"))
	if err != nil {
		return "", nil, nil, err
	}
	nix.blobs(64, 1e6)
	nix.blobs(1, 100e6)
	for _, it := range nix.items {
		big = append(big, narinfoPath(it))
	}
	blobs := nix.items
	nix.items = nil
	nix.fill(434)
	for _, it := range nix.items {
		narinfos = append(narinfos, narinfoPath(it))
	}
	nix.items = append(nix.items, blobs...)
	if err := nix.load(); err != nil {
		return "", nil, nil, err
	}
	state = filepath.Join(b.disk, "served")
	_, _, err = timed(exec.Command(b.narfold, "import", "--state", state, filepath.Join(nix.root, "store")))
	return state, narinfos, big, err
}

func narinfoPath(it storeItem) string {
	hash, _, _ := strings.Cut(path.Base(it.path), "-")
	return "/" + hash + ".narinfo"
}

// narPaths reads where the nars of the big items are, sorted by size.
func narPaths(s *server, big []string, into map[string][]string) error {
	for _, p := range big {
		res, err := http.Get("http://" + s.addr + p)
		if err != nil {
			return err
		}
		url, size := "", "1 MB"
		for lines := bufio.NewScanner(res.Body); lines.Scan(); {
			if v, ok := strings.CutPrefix(lines.Text(), "URL: "); ok {
				url = v
			}
			if v, ok := strings.CutPrefix(lines.Text(), "NarSize: "); ok && len(v) == len("100000000") {
				size = "100 MB"
			}
		}
		res.Body.Close()
		if url == "" {
			return fmt.Errorf("%s: %s, and no URL", p, res.Status)
		}
		into[size] = append(into[size], "/"+strings.TrimPrefix(url, "/"))
	}
	return nil
}

// missing are names of narinfos that nobody has.
func missing() (paths []string) {
	r := rand.New(rand.NewPCG(3, 4))
	for range 1000 {
		name := make([]byte, 32)
		for i := range name {
			name[i] = base32[r.IntN(32)]
		}
		paths = append(paths, "/"+string(name)+".narinfo")
	}
	return paths
}
