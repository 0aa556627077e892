package sqlite

import (
	"context"
	"fmt"
	"slices"
	"time"

	"zombiezen.com/go/sqlite"
	"zombiezen.com/go/sqlite/sqlitex"

	"narfold/internal/catalog"
	"narfold/internal/compress"
	"narfold/internal/objstore"
	"narfold/internal/storepath"
)

// methods are the numbers of compressions in the files table. They only ever grow at the end.
var methods = []compress.Method{compress.None, compress.Gzip, compress.Lzip, compress.Xz, compress.Zstd, compress.Bzip2, compress.Brotli, compress.Lz4}

func methodNumber(m compress.Method) (int64, error) {
	if i := slices.Index(methods, m); i >= 0 {
		return int64(i), nil
	}
	return 0, fmt.Errorf("the catalogue has no number for compression %q", m)
}

// order is the hash part as the items table has it: its bytes from the last to the first sort as its text does.
func order(h storepath.HashPart) []byte {
	b := h.Bytes()
	slices.Reverse(b[:])
	return b[:]
}

// hashPart inverts order.
func hashPart(b []byte) (h [20]byte) {
	copy(h[:], b)
	slices.Reverse(h[:])
	return h
}

// selectFile selects what scanFile reads. The owner of a file whose key is its own is no item, so that the join finds none.
const (
	fileColumns = "f.method, f.size, f.sha256, f.verified, f.key, f.generation, o.hash, o.name"
	selectFile  = "SELECT " + fileColumns + " FROM files f LEFT JOIN items o ON o.id = f.owner "
)

func scanFile(s *sqlite.Stmt) (f catalog.File, err error) {
	if f, err = scanForm(s); err != nil || f.Key != "" {
		return f, err
	}
	var owner [20]byte
	s.ColumnBytes(6, owner[:])
	f.Key = catalog.NarKey(f.Compression, base(owner[:], s.ColumnText(7)), s.ColumnInt(5))
	return f, nil
}

// scanForm reads the first five columns of selectFile. The key is "" if it is that of an item.
func scanForm(s *sqlite.Stmt) (f catalog.File, err error) {
	n := s.ColumnInt(0)
	if n < 0 || n >= len(methods) {
		return f, fmt.Errorf("%w: compression %d is not known", catalog.ErrNewer, n)
	}
	f = catalog.File{Compression: methods[n], Size: s.ColumnInt64(1), Verified: fromMillis(s.ColumnInt64(3))}
	s.ColumnBytes(2, f.SHA256[:])
	f.Key = objstore.Key(s.ColumnText(4))
	return f, nil
}

func base(order []byte, name string) storepath.Base {
	return storepath.Base(string(storepath.HashPartOf(hashPart(order))) + "-" + name)
}

// files returns the files of a nar, ascending by compression name.
func files(conn *sqlite.Conn, nar int64) (files []catalog.File, err error) {
	err = sqlitex.Execute(conn, selectFile+"WHERE f.nar = ?", &sqlitex.ExecOptions{Args: []any{nar}, ResultFunc: func(s *sqlite.Stmt) error {
		f, err := scanFile(s)
		files = append(files, f)
		return err
	}})
	sortFiles(files)
	return files, err
}

// filesOf returns the files of an item's nar. Mostly their keys are the item's own, for which no other row is needed.
func (db *DB) filesOf(conn *sqlite.Conn, it *catalog.Item, nar int64) (files []catalog.File, err error) {
	err = sqlitex.Execute(conn, "SELECT method, size, sha256, verified, key, generation, owner FROM files WHERE nar = ?", &sqlitex.ExecOptions{Args: []any{nar}, ResultFunc: func(s *sqlite.Stmt) error {
		f, err := scanForm(s)
		if err == nil && f.Key == "" {
			owner := it.Path.Base
			if id := s.ColumnInt64(6); id != it.Sequence {
				if owner, err = db.base(conn, id); err != nil {
					return err
				}
			}
			f.Key = catalog.NarKey(f.Compression, owner, s.ColumnInt(5))
		}
		files = append(files, f)
		return err
	}})
	sortFiles(files)
	return files, err
}

func sortFiles(files []catalog.File) {
	if len(files) > 1 {
		slices.SortFunc(files, func(a, b catalog.File) int {
			if a.Compression < b.Compression {
				return -1
			}
			return 1
		})
	}
}

// row names a row of the files table.
type row struct{ nar, method int64 }

// fileRow finds the file that has a key, or reports that none has.
func fileRow(conn *sqlite.Conn, k objstore.Key) (r row, found bool, err error) {
	note := func(s *sqlite.Stmt) error {
		r, found = row{s.ColumnInt64(0), s.ColumnInt64(1)}, true
		return nil
	}
	if m, b, generation, err := catalog.ParseNarKey(k); err == nil {
		method, err := methodNumber(m)
		if err != nil {
			return r, false, err
		}
		err = sqlitex.Execute(conn, "SELECT f.nar, f.method FROM items o JOIN files f ON f.nar = o.nar AND f.method = ? AND f.owner = o.id WHERE o.hash = ? AND o.name = ? AND f.generation = ?",
			&sqlitex.ExecOptions{Args: []any{method, order(b.HashPart()), b.Name(), generation}, ResultFunc: note})
		if err != nil || found {
			return r, found, err
		}
	}
	err = sqlitex.Execute(conn, "SELECT nar, method FROM files WHERE key = ?", &sqlitex.ExecOptions{Args: []any{string(k)}, ResultFunc: note})
	return r, found, err
}

// put adds a file of a nar, which has none with its compression: a statement that may replace a row writes down what it changes, which is
// most of its cost. The key is recorded in full only if it is not one of owner, an item that has the nar.
func put(conn *sqlite.Conn, nar int64, f catalog.File, owner int64, of storepath.Base) error {
	method, err := methodNumber(f.Compression)
	if err != nil {
		return err
	}
	args := []any{nar, method, f.Size, f.SHA256[:], millis(f.Verified), nil, nil, string(f.Key)}
	if m, b, generation, err := catalog.ParseNarKey(f.Key); err == nil && m == f.Compression && b == of {
		args[5], args[6], args[7] = owner, int64(generation), nil
	}
	return sqlitex.Execute(conn, "INSERT INTO files(nar, method, size, sha256, verified, owner, generation, key) VALUES(?, ?, ?, ?, ?, ?, ?, ?)",
		&sqlitex.ExecOptions{Args: args})
}

// keysAfter returns files in the order of their keys, at most limit.
func keysAfter(conn *sqlite.Conn, from objstore.Key, limit int) (fs []catalog.File, err error) {
	collect := func(s *sqlite.Stmt) error {
		f, err := scanFile(s)
		if f.Key > from {
			fs = append(fs, f)
		}
		return err
	}
	err = sqlitex.Execute(conn, selectFile+"WHERE f.key > ? ORDER BY f.key LIMIT ?", &sqlitex.ExecOptions{Args: []any{string(from), limit}, ResultFunc: collect})
	if err != nil {
		return nil, err
	}
	// Those of items: compression by compression, and in each by hash part. The first of each is asked for again, since it may have
	// been followed by another generation; there is one at most.
	sorted := slices.Sorted(slices.Values(methods))
	for _, m := range sorted {
		first := catalog.NarKey(m, "", 1)
		after := []byte{}
		switch {
		case from >= first+"~": // every key with this compression is before
			continue
		case from > first:
			_, b, _, err := catalog.ParseNarKey(from)
			if err != nil {
				return nil, err
			}
			after = order(b.HashPart())
		}
		method, err := methodNumber(m)
		if err != nil {
			return nil, err
		}
		have := len(fs)
		err = sqlitex.Execute(conn, "SELECT "+fileColumns+" FROM items o JOIN files f ON f.nar = o.nar AND f.method = ? AND f.owner = o.id WHERE o.hash >= ? ORDER BY o.hash LIMIT ?",
			&sqlitex.ExecOptions{Args: []any{method, after, limit + 1}, ResultFunc: collect})
		if err != nil {
			return nil, err
		}
		if len(fs)-have >= limit {
			break
		}
	}
	slices.SortFunc(fs, func(a, b catalog.File) int {
		switch {
		case a.Key < b.Key:
			return -1
		case a.Key > b.Key:
			return 1
		}
		return 0
	})
	return fs[:min(limit, len(fs))], nil
}

// RecordVerified implements catalog.Publisher.
func (db *DB) RecordVerified(ctx context.Context, keys []objstore.Key, at time.Time) error {
	return db.write(ctx, func(conn *sqlite.Conn) error {
		for _, k := range keys {
			r, found, err := fileRow(conn, k)
			if err != nil {
				return err
			}
			if !found {
				continue
			}
			err = sqlitex.Execute(conn, "UPDATE files SET verified = ? WHERE nar = ? AND method = ?", &sqlitex.ExecOptions{Args: []any{millis(at), r.nar, r.method}})
			if err != nil {
				return err
			}
		}
		return nil
	})
}
