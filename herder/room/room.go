// Package room judges how much may still be written to a deployment's file systems, so that what brings more in is slowed, and then
// stopped, while serving and publishing what has come already still have what they need.
package room

import (
	"fmt"
	"math"
	"time"

	"golang.org/x/sys/unix"
)

// Room is what may be written to.
type Room struct {
	// Folders lie on the file systems that are looked at; the one with the least free counts. Empty names are passed over.
	Folders []string
	// Reserve is how many bytes are to stay free. With 0 nothing is kept, and nothing is slowed.
	Reserve int64
}

// Level says what may be brought in.
type Level int

const (
	Plenty Level = iota // as much as comes
	Scarce              // a little at a time: less than twice the reserve would stay free
	None                // nothing: it would use up the reserve
)

// String returns the word for the level.
func (l Level) String() string {
	return [...]string{"plenty", "scarce", "none"}[l]
}

// View is how much room there was at one moment.
type View struct {
	Folder  string // where the least is free
	Free    int64  // bytes there, for those who are not root
	Reserve int64
	stays   int64 // bytes that would stay free; below 0 if there are too few
}

// Look looks how much room there is if coming bytes come, at least 0.
func (r Room) Look(coming int64) (View, error) {
	v := View{Free: math.MaxInt64, Reserve: r.Reserve}
	for _, folder := range r.Folders {
		if folder == "" {
			continue
		}
		var s unix.Statfs_t
		if err := unix.Statfs(folder, &s); err != nil {
			return v, fmt.Errorf("look for room in %s: %w", folder, err)
		}
		if free := int64(s.Bavail) * s.Bsize; free < v.Free {
			v.Folder, v.Free = folder, free
		}
	}
	v.stays = v.Free - max(coming, 0)
	return v, nil
}

// Level returns what may be brought in.
func (v View) Level() Level {
	switch {
	case v.stays < v.Reserve || v.stays < 0:
		return None
	case v.stays-v.Reserve < v.Reserve:
		return Scarce
	}
	return Plenty
}

const (
	// leastWait and mostWait bound what those who do not fit are asked to wait: a little missing is soon there, and of a full disk a
	// person has to be told first.
	leastWait = 2 * time.Second
	mostWait  = 2 * time.Minute
	// mostTurn bounds what those are asked to wait who come while room is scarce: others will be done soon.
	mostTurn = 5 * time.Second
)

// Wait returns how long to wait before asking again, in whole seconds: for one's turn when room is scarce, and for room when there is
// none; the longer, the shorter it is.
func (v View) Wait() time.Duration {
	switch v.Level() {
	case Plenty:
		return leastWait // somebody has just made room
	case Scarce:
		return part(time.Second, mostTurn, 2-float64(v.stays)/float64(v.Reserve))
	}
	if v.Reserve == 0 {
		return mostWait
	}
	return part(leastWait, mostWait, 1-float64(v.stays)/float64(v.Reserve))
}

func part(least, most time.Duration, lacking float64) time.Duration {
	d := least + time.Duration(min(max(lacking, 0), 1)*float64(most-least))
	return d.Round(time.Second)
}

// Message says in one line how much is free and how much of that is kept.
func (v View) Message() string {
	return fmt.Sprintf("%d bytes are free, %d are kept in reserve", v.Free, v.Reserve)
}
