package upload

import (
	"context"
	"errors"
	"fmt"
	"math"
	"sync"

	"narfold/herder/publish"
	"narfold/herder/room"
	"narfold/internal/catalog"
	"narfold/internal/durable"
	"narfold/internal/objstore"
	"narfold/internal/publishapi"
)

// few is how many uploads are received at once while room is scarce: enough that one slow client does not keep all others out, few
// enough that what has been let in cannot use up the reserve before the next is judged.
const few = 2

// entrance is where uploads are let in or turned away.
type entrance struct {
	mu        sync.Mutex
	open      int   // uploads that were let in and have not left
	announced int64 // bytes of them that have not come yet
	level     room.Level
	refused   Refused
}

// Refused counts uploads that were turned away.
type Refused struct {
	Busy uint64 // since a few were being received while room was scarce
	Full uint64 // since there was no room
}

// Room returns how much room there is, and how many uploads were turned away.
func (u *Uploads) Room() (room.View, Refused, error) {
	u.entrance.mu.Lock()
	coming, refused := u.entrance.announced, u.entrance.refused
	u.entrance.mu.Unlock()
	v, err := u.room().Look(coming)
	return v, refused, err
}

func (u *Uploads) room() room.Room {
	return room.Room{Folders: []string{u.Dir, u.Store}, Reserve: u.Reserve}
}

// arrival is an upload that was let in. What has not come of it yet is counted as if it were there, so that many at once do not use
// up the reserve together.
type arrival struct {
	u    *Uploads
	left int64
}

// admit lets an upload in, or refuses what would use up the reserve (ErrFull) and, while room is scarce, all but a few (ErrBusy): reading
// goes on, and so does what publishing needs.
func (u *Uploads) admit(size int64) (*arrival, error) {
	e := &u.entrance
	e.mu.Lock()
	defer e.mu.Unlock()
	v, err := u.room().Look(coming(e.announced, size))
	if err != nil {
		return nil, err
	}
	u.changed(v)
	switch level := v.Level(); {
	case level == room.None:
		e.refused.Full++
		return nil, &publishapi.LaterError{After: v.Wait(), Err: fmt.Errorf("%w: %s", publishapi.ErrFull, v.Message())}
	case level == room.Scarce && e.open >= few:
		e.refused.Busy++
		return nil, &publishapi.LaterError{After: v.Wait(), Err: fmt.Errorf("%w: %s", publishapi.ErrBusy, v.Message())}
	}
	e.open++
	e.announced += size
	return &arrival{u, size}, nil
}

// coming returns what an upload of size bytes will have written beside what is announced: it is staged once and stored once, and the
// store may be on the same file system.
func coming(announced, size int64) int64 {
	const most = math.MaxInt64 / 4
	return min(announced, most) + 2*min(size, most)
}

// changed tells the log when the level does: a full disk is news once, and not with every upload.
func (u *Uploads) changed(v room.View) {
	level := v.Level()
	if level == u.entrance.level {
		return
	}
	u.entrance.level = level
	log := u.Log.Warn
	if level == room.Plenty {
		log = u.Log.Info
	}
	log("room for uploads", "level", level.String(), "folder", v.Folder, "free_bytes", v.Free, "reserve_bytes", v.Reserve)
}

// Write counts what has come.
func (a *arrival) Write(p []byte) (int, error) {
	n := min(int64(len(p)), a.left)
	a.left -= n
	a.u.entrance.mu.Lock()
	defer a.u.entrance.mu.Unlock()
	a.u.entrance.announced -= n
	return len(p), nil
}

func (a *arrival) leave() {
	a.u.entrance.mu.Lock()
	defer a.u.entrance.mu.Unlock()
	a.u.entrance.announced -= a.left
	a.u.entrance.open--
	a.left = 0
}

// unable says in words of the contract why nothing can be published now; of an error that it does not know, only the log tells.
func (u *Uploads) unable(err error) error {
	switch {
	case errors.Is(err, publishapi.ErrFull), errors.Is(err, publishapi.ErrBusy):
		return err // by admit
	case errors.Is(err, objstore.ErrFull), errors.Is(err, catalog.ErrFull), durable.IsFull(err):
		full := fmt.Errorf("%w: %w", publishapi.ErrFull, err)
		v, _, lookErr := u.Room()
		if lookErr != nil {
			return full
		}
		return &publishapi.LaterError{After: v.Wait(), Err: full}
	case errors.Is(err, objstore.ErrUnavailable), errors.Is(err, publish.ErrStopped), errors.Is(err, context.Canceled):
		return fmt.Errorf("%w: %w", publishapi.ErrUnavailable, err)
	}
	return err
}
