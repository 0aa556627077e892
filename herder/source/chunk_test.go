package source

import (
	"fmt"
	"os/exec"
	"strings"
	"testing"

	"narfold/internal/storepath"
)

// A store that is read in several pieces.
func TestEveryItemOfALongListIsListedOnceAndInOrder(t *testing.T) {
	const items = 2*chunkItems + 7
	n := newNix(t)
	// Numbered backwards, so that the order of the rows is not the order wanted.
	path := func(i int) string { return fmt.Sprintf("%s/store/%032d-item", n.root, items-i) }
	var rows strings.Builder // as nix-store --load-db reads them: path, hash, size, deriver, number of references, references
	for i := range items {
		fmt.Fprintf(&rows, "%s\n%064x\n%d\n\n", path(i), i+1, 100+i)
		if i < 2 {
			fmt.Fprint(&rows, "0\n")
			continue
		}
		fmt.Fprintf(&rows, "2\n%s\n%s\n", path(i-1), path(i-2))
	}
	cmd := exec.Command("nix-store", "--load-db")
	cmd.Env, cmd.Stdin = n.env, strings.NewReader(rows.String())
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("nix-store --load-db: %v\n%s", err, out)
	}
	for name, opt := range map[string]Options{"whole": {}, "closure": {Items: []string{path(items - 1)}, Closure: true}} {
		t.Run(name, func(t *testing.T) {
			s, err := Open(t.Context(), n.root+"/store", opt)
			if err != nil {
				t.Fatal(err)
			}
			defer s.Close()
			seen := map[storepath.Base]bool{}
			bytes := int64(0)
			for job, err := range s.Jobs(t.Context()) {
				if err != nil {
					t.Fatal(err)
				}
				it := job.Narinfo
				for _, r := range it.References {
					if !seen[r] {
						t.Errorf("%s is listed before %s", it.StorePath, r)
					}
				}
				if seen[it.StorePath.Base] {
					t.Errorf("%s is listed twice", it.StorePath)
				}
				seen[it.StorePath.Base] = true
				bytes += it.NarSize
			}
			if len(seen) != items {
				t.Errorf("%d listed, want %d", len(seen), items)
			}
			if told, known := s.NarBytes(); told != bytes || !known {
				t.Errorf("%d bytes are told, want %d", told, bytes)
			}
			stopped := 0
			for range s.Jobs(t.Context()) { // whoever wants no more gets no more
				if stopped++; stopped == chunkItems/2 {
					break
				}
			}
		})
	}
}
