package feed

import (
	"fmt"
	"strings"
	"time"

	"narfold/internal/nixkey"
)

// Head states where a feed stood at a time.
type Head struct {
	Origin string
	Point
	Time time.Time // when it was signed, to the second
}

const (
	headLine       = "narfold-feed-head 1"
	headTimeFormat = "2006-01-02T15:04:05Z"
	// maxHead bounds a head, in bytes; the name of a key has at most nixkey.MaxName.
	maxHead = 4096
)

func (h Head) text() string {
	return fmt.Sprintf("%s\norigin %s\nsequence %d\nchain %s\ntime %s\n", headLine, h.Origin, h.Sequence, h.Chain.Hex(), h.Time.UTC().Format(headTimeFormat))
}

// Sign returns the head as it is published.
func (h Head) Sign(key *nixkey.Secret) []byte {
	text := h.text()
	return []byte(text + "signature " + key.Sign(text) + "\n")
}

// ParseHead reads a head and checks its signature. The error wraps ErrFormat, or one of nixkey's if the signature is not by key.
func ParseHead(text []byte, key nixkey.PublicKey) (Head, error) {
	var h Head
	bad := func(err error) (Head, error) {
		return Head{}, fmt.Errorf("read head of the feed: %w: %w", ErrFormat, err)
	}
	if len(text) > maxHead {
		return bad(fmt.Errorf("%d bytes, more than %d", len(text), maxHead))
	}
	lines := strings.Split(string(text), "\n")
	if len(lines) != 7 || lines[0] != headLine || lines[6] != "" {
		return bad(fmt.Errorf("want 6 lines that begin with %q", headLine))
	}
	var values [5]string
	for i, name := range []string{"origin ", "sequence ", "chain ", "time ", "signature "} {
		var ok bool
		if values[i], ok = strings.CutPrefix(lines[i+1], name); !ok {
			return bad(fmt.Errorf("line %d does not begin with %q", i+2, name))
		}
	}
	h.Origin = values[0]
	if err := CheckOrigin(h.Origin); err != nil {
		return bad(err)
	}
	var err error
	if h.Sequence, err = parseSequence(values[1]); err != nil {
		return bad(err)
	}
	if h.Chain, err = parseHex(values[2]); err != nil {
		return bad(err)
	}
	if h.Time, err = time.Parse(headTimeFormat, values[3]); err != nil {
		return bad(err)
	}
	signed := h.text()
	if !strings.HasPrefix(string(text), signed) {
		return bad(fmt.Errorf("time %q is written otherwise", values[3]))
	}
	if err := key.Verify(signed, values[4]); err != nil {
		return Head{}, fmt.Errorf("read head of the feed: %w", err)
	}
	return h, nil
}
