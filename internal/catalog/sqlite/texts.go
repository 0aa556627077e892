package sqlite

import (
	"fmt"
	"sync"

	"zombiezen.com/go/sqlite"
	"zombiezen.com/go/sqlite/sqlitex"
)

// mostTexts bounds the table of texts, which holds what many rows share. A source of narinfos that are all different in form gets no
// templates from then on, and keeps its narinfos whole.
const mostTexts = 10_000

// texts remembers rows of the texts table, which never change. Only what is committed may be remembered: a number that was handed out in
// a transaction that came to nothing is handed out again.
type texts struct {
	mu   sync.RWMutex
	text map[int64]string
	id   map[string]int64
}

func (x *texts) remember(id int64, text string) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.text == nil {
		x.text, x.id = make(map[int64]string), make(map[string]int64)
	}
	x.text[id], x.id[text] = text, id
}

// of returns a text by its number. conn must see only what is committed.
func (x *texts) of(conn *sqlite.Conn, id int64) (string, error) {
	x.mu.RLock()
	text, ok := x.text[id]
	x.mu.RUnlock()
	if ok {
		return text, nil
	}
	err := sqlitex.Execute(conn, "SELECT text FROM texts WHERE id = ?", &sqlitex.ExecOptions{Args: []any{id}, ResultFunc: func(s *sqlite.Stmt) error {
		text, ok = s.ColumnText(0), true
		return nil
	}})
	if err == nil && !ok {
		err = fmt.Errorf("text %d is not there", id)
	}
	if err == nil {
		x.remember(id, text)
	}
	return text, err
}

// number returns the number of a text within a transaction that writes, in which it may be new. It is 0 if there are too many texts and
// this one is optional.
func (t *transaction) number(text string, optional bool) (id int64, err error) {
	if id := t.fresh[text]; id != 0 {
		return id, nil
	}
	t.db.texts.mu.RLock()
	id = t.db.texts.id[text]
	t.db.texts.mu.RUnlock()
	if id != 0 {
		return id, nil
	}
	if id, err = scalar(t.conn, "SELECT id FROM texts WHERE text = ?", text); err != nil {
		return 0, err
	}
	if id != 0 { // of an earlier transaction, or it would be in t.fresh
		t.db.texts.remember(id, text)
		return id, nil
	}
	if optional {
		n, err := scalar(t.conn, "SELECT coalesce(max(id), 0) FROM texts")
		if err != nil || n >= mostTexts {
			return 0, err
		}
	}
	if err := sqlitex.Execute(t.conn, "INSERT INTO texts(text) VALUES(?)", &sqlitex.ExecOptions{Args: []any{text}}); err != nil {
		return 0, err
	}
	id = t.conn.LastInsertRowID()
	if t.fresh == nil {
		t.fresh = make(map[string]int64)
	}
	t.fresh[text] = id
	return id, nil
}

// text returns a text by its number within a transaction that writes.
func (t *transaction) text(id int64) (string, error) {
	for text, n := range t.fresh {
		if n == id {
			return text, nil
		}
	}
	return t.db.texts.of(t.conn, id)
}

// transaction is one that writes.
type transaction struct {
	db    *DB
	conn  *sqlite.Conn
	fresh map[string]int64 // texts that it has added
}
