package postgres

import (
	"bytes"
	"fmt"
	"slices"
	"testing"

	"github.com/jackc/pgx/v5"

	"narfold/internal/catalog"
	"narfold/internal/catalog/catalogtest"
	"narfold/internal/catalog/synthetic"
	"narfold/internal/storepath"
)

// count makes a query that gives numbers.
func count(t *testing.T, db *DB, query string) []int64 {
	t.Helper()
	numbers, err := rows(t.Context(), db, pgx.RowTo[int64], query)
	if err != nil {
		t.Fatal(err)
	}
	return numbers
}

func TestNarinfosAreKeptByWhatIsTheirOwnAndReadByteForByte(t *testing.T) {
	name := database(t)
	db := open(t, name)
	all, err := synthetic.New(1)
	if err != nil {
		t.Fatal(err)
	}
	const items = 500
	var ps []catalog.Publication
	var wants []catalog.Want
	for p := range all.Publications(0, items) {
		ps = append(ps, p)
		wants = append(wants, catalog.Want{Base: p.Path.Base, Compression: p.Files[0].Compression})
	}
	if _, err := db.Reserve(t.Context(), wants); err != nil {
		t.Fatal(err)
	}
	for _, half := range [][]catalog.Publication{ps[:items/2], ps[items/2:]} {
		if _, err := db.Publish(t.Context(), half); err != nil {
			t.Fatal(err)
		}
	}
	if n := count(t, db, "SELECT unnest(ARRAY[(SELECT count(*) FROM items WHERE template = 0), (SELECT avg(octet_length(narinfo))::bigint FROM items), (SELECT count(*) FROM templates)])"); n[0] != 0 || n[1] > 150 || n[2] > 50 {
		t.Errorf("%d of %d narinfos are whole, the others have %d bytes of their own; there are %d templates", n[0], items, n[1], n[2])
	}
	same := func(who string, db *DB) {
		t.Helper()
		for _, p := range ps {
			it, err := db.Item(t.Context(), p.Path.HashPart())
			if err != nil || !bytes.Equal(it.Narinfo, p.Narinfo) || !slices.Equal(it.References, p.References) {
				t.Fatalf("%s reads %v\n%s\nwant\n%s", who, err, it.Narinfo, p.Narinfo)
			}
		}
	}
	other := open(t, name)
	same("who published", db)
	same("who knows nothing", other)
	i := 0
	for it, err := range open(t, name).Items(t.Context(), 0) {
		if err != nil || !bytes.Equal(it.Narinfo, ps[i].Narinfo) {
			t.Fatalf("item %d: %v\n%s", i, err, it.Narinfo)
		}
		i++
	}
	// What came back has other numbers, also for who remembers the old ones.
	hs := column(ps, func(p *catalog.Publication) storepath.HashPart { return p.Path.HashPart() })
	if _, err := db.Withdraw(t.Context(), catalog.Withdrawal{Items: hs}); err != nil {
		t.Fatal(err)
	}
	if n := count(t, db, "SELECT count(*) FROM items"); n[0] != 0 {
		t.Errorf("%d are live", n[0])
	}
	if _, err := db.Restore(t.Context(), hs); err != nil {
		t.Fatal(err)
	}
	same("who brought it back", db)
	same("who knows the old numbers", other)
}

func TestWithoutRoomForATemplateANarinfoIsKeptWhole(t *testing.T) {
	name := database(t)
	db := open(t, name)
	admin(t, name, fmt.Sprintf("INSERT INTO templates SELECT i, sha256(i::text::bytea), i::text::bytea FROM generate_series(1, %d) AS i", mostTemplates))
	x := catalogtest.Item("x", "x")
	publish(t, db, x)
	if n := count(t, db, "SELECT unnest(ARRAY[(SELECT count(*) FROM items WHERE template = 0), (SELECT count(*) FROM templates)])"); n[0] != 1 || n[1] != mostTemplates {
		t.Errorf("%d narinfos are whole, there are %d templates", n[0], n[1])
	}
	it, err := open(t, name).Item(t.Context(), x.Path.HashPart())
	if err != nil || !bytes.Equal(it.Narinfo, x.Narinfo) || !slices.Equal(it.References, x.References) {
		t.Errorf("%v\n%s", err, it.Narinfo)
	}
}

func TestANarinfoThatCallsAReferenceByAnotherNameIsReadAsItWasSigned(t *testing.T) {
	db := open(t, database(t))
	publish(t, db, catalogtest.Item("low"))
	low := catalogtest.Base("low")
	top := catalogtest.Item("top", "low")
	other := storepath.Base(string(low.HashPart()) + "-lower")
	top.References = []storepath.Base{other}
	top.Narinfo = bytes.ReplaceAll(top.Narinfo, []byte(low), []byte(other))
	publish(t, db, top)
	it, err := db.Item(t.Context(), top.Path.HashPart())
	if err != nil || !bytes.Equal(it.Narinfo, top.Narinfo) || !slices.Equal(it.References, top.References) {
		t.Errorf("%v\n%s\nwant\n%s", err, it.Narinfo, top.Narinfo)
	}
}
