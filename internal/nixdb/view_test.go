package nixdb

import (
	"errors"
	"slices"
	"testing"
)

func TestAViewIsOfOneMomentWhileAWriterGoesOn(t *testing.T) {
	path, writer := made(t, guixColumns, one)
	db := opened(t, path)
	look := func(want error, wantSize int64, wantRefs ...int64) {
		t.Helper()
		err := db.View(t.Context(), func(v *View) error {
			if _, err := v.Item(1); err != nil {
				t.Errorf("an item that is there: %v", err)
			}
			if want != nil { // only in the first view
				run(t, writer, two, "insert into Refs values (1, 2)", "update ValidPaths set narSize = 7 where id = 2")
			}
			if _, err := v.Item(2); !errors.Is(err, want) {
				t.Errorf("an item that came meanwhile: %v, want %v", err, want)
			}
			if _, size, err := v.Edges(2); size != wantSize || err != nil {
				t.Errorf("size %d, %v, want %d", size, err, wantSize)
			}
			refs, _, err := v.Edges(1)
			if !slices.Equal(refs, wantRefs) {
				t.Errorf("references %v, want %v", refs, wantRefs)
			}
			return err
		})
		if err != nil {
			t.Error(err)
		}
	}
	look(ErrNotFound, 0)
	look(nil, 7, 2)
}

func TestAViewEndsWithTheErrorOfItsFunction(t *testing.T) {
	path, _ := made(t, nixColumns, one)
	db := opened(t, path)
	mine := errors.New("mine")
	if err := db.View(t.Context(), func(*View) error { return mine }); !errors.Is(err, mine) {
		t.Errorf("%v", err)
	}
	if _, err := db.Item(t.Context(), 1); err != nil {
		t.Errorf("and the next read: %v", err)
	}
}

func TestWhatADatabaseCannotAnswerIsExplainedWithinAView(t *testing.T) {
	path, writer := made(t, nixColumns, one)
	db := opened(t, path)
	run(t, writer, "drop table Refs")
	err := db.View(t.Context(), func(v *View) error {
		_, err := v.Item(1)
		return err
	})
	if err == nil || errors.Is(err, ErrNotFound) {
		t.Errorf("without its references an item is %v", err)
	}
}

// edgesOf returns the references of an item, ascending.
func edgesOf(t *testing.T, db *DB, id int64) (refs []int64) {
	t.Helper()
	err := db.View(t.Context(), func(v *View) (err error) {
		refs, _, err = v.Edges(id)
		return err
	})
	if err != nil {
		t.Error(err)
	}
	slices.Sort(refs)
	return refs
}
