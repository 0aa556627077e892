package room

import (
	"math"
	"strings"
	"testing"
	"time"
)

func TestTheLevelsMeetAtTheReserve(t *testing.T) {
	const mib = 1 << 20
	for name, c := range map[string]struct {
		stays, reserve int64
		level          Level
		wait           time.Duration
	}{
		"twice the reserve":       {200 * mib, 100 * mib, Plenty, 2 * time.Second},
		"a byte less":             {200*mib - 1, 100 * mib, Scarce, time.Second},
		"half way":                {150 * mib, 100 * mib, Scarce, 3 * time.Second},
		"exactly the reserve":     {100 * mib, 100 * mib, Scarce, 5 * time.Second},
		"a byte of it":            {100*mib - 1, 100 * mib, None, 2 * time.Second},
		"half of it":              {50 * mib, 100 * mib, None, 61 * time.Second},
		"all of it":               {0, 100 * mib, None, 2 * time.Minute},
		"more than there is":      {math.MinInt64 / 2, 100 * mib, None, 2 * time.Minute},
		"no reserve":              {0, 0, Plenty, 2 * time.Second},
		"no reserve, and no room": {-1, 0, None, 2 * time.Minute},
		"a reserve beyond all":    {mib, math.MaxInt64, None, 2 * time.Minute},
	} {
		t.Run(name, func(t *testing.T) {
			v := View{Free: c.stays, Reserve: c.reserve, stays: c.stays}
			if v.Level() != c.level || v.Wait() != c.wait {
				t.Errorf("%v, wait %v; want %v, %v", v.Level(), v.Wait(), c.level, c.wait)
			}
		})
	}
}

func TestShorterRoomIsWaitedForLonger(t *testing.T) {
	const reserve = 1 << 30
	last := time.Duration(0)
	for stays := int64(reserve) - 1; stays > 0; stays -= reserve / 100 {
		wait := View{Reserve: reserve, stays: stays}.Wait()
		if wait < last || wait < leastWait || wait > mostWait {
			t.Fatalf("with %d bytes of %d: %v, after %v", stays, reserve, wait, last)
		}
		last = wait
	}
}

func TestTheFileSystemIsAsked(t *testing.T) {
	dir := t.TempDir()
	v, err := Room{Folders: []string{dir, "", dir}}.Look(0)
	if err != nil || v.Folder != dir || v.Free <= 0 || v.Level() != Plenty {
		t.Errorf("%+v, %v", v, err)
	}
	if v, err := (Room{Folders: []string{dir}}).Look(math.MaxInt64); err != nil || v.Level() != None {
		t.Errorf("as much as can be: %v, %v", v.Level(), err)
	}
	if _, err := (Room{Folders: []string{dir + "/absent"}}).Look(0); err == nil || !strings.Contains(err.Error(), "look for room in "+dir) {
		t.Errorf("no such folder: %v", err)
	}
}
