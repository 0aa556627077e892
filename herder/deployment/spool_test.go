package deployment

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"testing"
)

func TestASpoolIsItsProcessesAlone(t *testing.T) {
	root := filepath.Join(t.TempDir(), "spool")
	first, err := openSpool(root)
	if err != nil {
		t.Fatal(err)
	}
	kept := filepath.Join(first.dir, "nar")
	if err := os.WriteFile(kept, []byte("half"), 0o600); err != nil {
		t.Fatal(err)
	}
	litter := filepath.Join(root, "run-of-a-killed-process")
	if err := os.MkdirAll(filepath.Join(litter, "deep"), 0o700); err != nil {
		t.Fatal(err)
	}
	second, err := openSpool(root)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(kept); err != nil {
		t.Errorf("what a living process spooled: %v", err)
	}
	if _, err := os.Stat(litter); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("what a killed process left: %v", err)
	}
	for _, s := range []*spool{first, second} {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	}
	if left, err := os.ReadDir(root); err != nil || len(left) != 0 {
		t.Errorf("left %v, %v", left, err)
	}
}

// The moment between making a folder and locking it is the one in which another process may take it for litter.
func TestManySpoolsAreOpenedAtOnce(t *testing.T) {
	root := filepath.Join(t.TempDir(), "spool")
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			for j := range 25 {
				s, err := openSpool(root)
				if err != nil {
					t.Error(err)
					return
				}
				file := filepath.Join(s.dir, fmt.Sprintf("%d-%d", i, j))
				if err := os.WriteFile(file, nil, 0o600); err != nil {
					t.Errorf("in a spool that is open: %v", err)
				}
				if _, err := os.Stat(file); err != nil {
					t.Errorf("a spool was cleaned while in use: %v", err)
				}
				if err := s.Close(); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	if left, err := os.ReadDir(root); err != nil || len(left) != 0 {
		t.Errorf("left %v, %v", left, err)
	}
}
