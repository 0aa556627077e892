package follow

import (
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"syscall"

	"narfold/internal/digest"
	"narfold/internal/durable"
	"narfold/internal/feed"
	"narfold/internal/storepath"
)

// maxOwed bounds what a place remembers as owed. With more the place is not kept, and the feed is read again from the last one.
const maxOwed = 1_000_000

// place is how far a change feed was verified, and what it named that is not here. Its zero value is the beginning of any feed.
type place struct {
	origin string // "" before the first
	point  feed.Point
	owed   []storepath.HashPart
}

// placeText is a place as its file has it.
type placeText struct {
	Origin   string   `json:"origin"`
	Sequence int64    `json:"sequence"`
	Chain    string   `json:"chain"`
	Owed     []string `json:"owed"`
}

// readPlace reads the file called name; if there is none it is the beginning.
func readPlace(name string) (p place, err error) {
	text, err := os.ReadFile(name)
	if errors.Is(err, fs.ErrNotExist) {
		return place{}, nil
	}
	if err != nil {
		return place{}, fmt.Errorf("read place in the change feed: %w", err)
	}
	if p, err = parsePlace(text); err != nil {
		return place{}, fmt.Errorf("read place in the change feed: %s: %w; remove it to read the feed from its beginning", name, err)
	}
	return p, nil
}

func parsePlace(text []byte) (p place, err error) {
	var t placeText
	if err := json.Unmarshal(text, &t); err != nil {
		return place{}, err
	}
	if err := feed.CheckOrigin(t.Origin); err != nil {
		return place{}, err
	}
	chain, err := hex.DecodeString(t.Chain)
	if err != nil || len(chain) != len(digest.SHA256{}) || t.Sequence < 0 {
		return place{}, fmt.Errorf("sequence %d, chain %.80q: not a place", t.Sequence, t.Chain)
	}
	p = place{origin: t.Origin, point: feed.Point{Sequence: t.Sequence, Chain: digest.SHA256(chain)}}
	for _, s := range t.Owed {
		h, err := storepath.ParseHashPart(s)
		if err != nil {
			return place{}, err
		}
		p.owed = append(p.owed, h)
	}
	return p, nil
}

func (p place) write(name string) error {
	t := placeText{Origin: p.origin, Sequence: p.point.Sequence, Chain: p.point.Chain.Hex(), Owed: make([]string, 0, len(p.owed))}
	for _, h := range p.owed {
		t.Owed = append(t.Owed, string(h))
	}
	text, err := json.Marshal(t)
	if err == nil {
		err = durable.WriteFile(name, append(text, '\n'), 0o644)
	}
	if err != nil {
		return fmt.Errorf("keep place in the change feed: %w", err)
	}
	return nil
}

// PlaceName returns a file name for the place in the feed of the upstream at url: readable, and another one for every URL.
func PlaceName(url string) string {
	readable := strings.Map(func(c rune) rune {
		if c >= 'a' && c <= 'z' || c >= '0' && c <= '9' || c == '.' || c == '-' {
			return c
		}
		return '_'
	}, strings.TrimPrefix(strings.TrimPrefix(url, "https://"), "http://"))
	return fmt.Sprintf("%.60s-%s.json", readable, digest.Of([]byte(url)).Hex()[:16])
}

// lock keeps other processes from following the same upstream into the same deployment, for as long as a round takes: two at once
// would download everything twice. The lock goes with the process that holds it.
func (f *Follower) lock() (unlock func(), err error) {
	name := f.Place + ".lock"
	file, err := os.OpenFile(name, os.O_RDWR|os.O_CREATE, 0o644)
	if err != nil {
		return nil, fmt.Errorf("lock: %w", err)
	}
	if err := syscall.Flock(int(file.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		file.Close()
		if errors.Is(err, syscall.EWOULDBLOCK) {
			return nil, fmt.Errorf("%w (%s)", ErrBusy, name)
		}
		return nil, fmt.Errorf("lock %s: %w", name, err)
	}
	return func() { file.Close() }, nil
}
