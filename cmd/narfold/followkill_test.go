package main

import (
	"fmt"
	"math/rand/v2"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"narfold/internal/narinfo"
	"narfold/internal/storepath"
)

// A herder's feed of more records than come at once is followed by a process that is killed again and again. What is published is
// always whole and closed, nothing is taken twice, and in the end all is there.
func TestAFollowerThatIsKilledAgainAndAgainComesToItsEnd(t *testing.T) {
	const items, kills = 1200, 8
	secret := filepath.Join(t.TempDir(), "farm.sec")
	must(t, nil, "key", "generate", "--dialect", "nix", "--name", "farm-1", "--secret", secret, "--public", secret+".pub")
	cache := t.TempDir()
	spit(t, filepath.Join(cache, "nix-cache-info"), []byte("StoreDir: /nix/store\n"))
	r := rand.New(rand.NewPCG(11, 11))
	var made []storepath.Base
	for i := range items {
		var refs []storepath.Base
		for range min(i, r.IntN(4)) {
			if b := made[r.IntN(i)]; !slices.Contains(refs, b) {
				refs = append(refs, b)
			}
		}
		slices.Sort(refs)
		p := pack(t, string(storepath.Nix), fmt.Sprint("item-", i), strings.Repeat(fmt.Sprint("contents ", i), 1+r.IntN(400)), func(n *narinfo.Narinfo) {
			n.Files[0].URL = "nar/" + string(n.StorePath.Base)
		}, refs...)
		made = append(made, p.path.Base)
		writeAll(t, filepath.Join(cache, "nar", string(p.path.Base)), p.nar)
		spit(t, filepath.Join(cache, string(p.path.HashPart())+".narinfo"), p.narinfo)
	}
	origin, originState := configFile(t, "")
	must(t, nil, "import", "--config", origin, "--key", secret, cache)
	a := startService(t, serviceOptions{args: []string{"--config", origin}})

	state := t.TempDir()
	flags := []string{"--state", state, "--from", a.url(), "--key", secret + ".pub", "--feed-key", filepath.Join(originState, "keys", "feed.pub")}
	program := buildProgram(t)
	// The moments of the kills are counted in nars that have been asked for, since a busy machine takes its time.
	asked := regexp.MustCompile(`(?m)^narfold_requests_total\{kind="nar",result="served"\} (\d+)`)
	served := func() int {
		m := asked.FindStringSubmatch(get(t, a.url()+"/metrics").body)
		if m == nil {
			t.Fatal("nobody counts nars")
		}
		n, err := strconv.Atoi(m[1])
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	killed := 0
	for i := range kills {
		until := served() + 1 + r.IntN(100*(i+1))
		cmd := exec.CommandContext(t.Context(), program, append([]string{"follow", "--once", "--quiet"}, flags...)...)
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		ended := make(chan error, 1)
		go func() { ended <- cmd.Wait() }()
		done := false
		wait(t, "nars to be asked for", func() bool {
			select {
			case err := <-ended:
				if err != nil {
					t.Fatalf("it failed by itself: %v", err)
				}
				done = true
			default:
			}
			return done || served() >= until
		})
		if !done {
			_ = cmd.Process.Kill()
			<-ended
			killed++
		}
		check := exec.CommandContext(t.Context(), program, "check", "--state", state, "--quiet")
		if said, err := check.CombinedOutput(); err != nil && check.ProcessState.ExitCode() != int(exitRefused) { // which tells of uploads that came to nothing
			t.Fatalf("after kill %d: %v: %s", killed, err, said)
		}
	}
	sum := followOnce(t, exitDone, flags...)
	if sum.Sequence != items {
		t.Errorf("%+v", sum)
	}
	t.Logf("%d kills, %d items left for the end", killed, sum.Published)
	if killed == 0 {
		t.Error("nobody was killed: the test proves nothing")
	}
	checked(t, exitDone, []string{fmt.Sprintf("%d published items", items)}, "--state", state, "--deep", "--remove-abandoned", "--quiet")
	if again := followOnce(t, exitDone, flags...); again.Wanted != 0 || again.Published != 0 {
		t.Errorf("again: %+v", again)
	}
	if code := a.stop(); code != 0 {
		t.Errorf("exit code %d", code)
	}
}
