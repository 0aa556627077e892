package synthetic

import (
	"errors"
	"reflect"
	"slices"
	"testing"

	"narfold/internal/guixkey"
	"narfold/internal/narinfo"
	"narfold/internal/storepath"
)

func population(t testing.TB) *Population {
	t.Helper()
	p, err := New(1)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// some numbers of all generations of a large population.
func some(t *testing.T, each func(i int)) {
	t.Helper()
	for i := 0; i < 10_000_000; i += 1 + i/50 {
		each(i)
	}
}

func TestAnItemReferencesEarlierOnesByTheNamesThatTheyHave(t *testing.T) {
	p := population(t)
	some(t, func(i int) {
		var want []storepath.Base
		for _, ref := range p.References(i) {
			if ref < 0 || ref > i {
				t.Fatalf("item %d references %d", i, ref)
			}
			want = append(want, p.Publication(ref).Path.Base)
		}
		slices.Sort(want)
		if got := p.Publication(i).References; !slices.Equal(got, want) {
			t.Fatalf("item %d references\n%q, want\n%q", i, got, want)
		}
	})
}

func TestNarinfosAreAccepted(t *testing.T) {
	p := population(t)
	some(t, func(i int) {
		pub := p.Publication(i)
		n, err := narinfo.Parse(pub.Narinfo)
		if err != nil {
			t.Fatalf("item %d: %v\n%s", i, err, pub.Narinfo)
		}
		if n.StorePath != pub.Path || n.NarHash != pub.NarHash || n.NarSize != pub.NarSize || !slices.Equal(n.References, pub.References) || n.Deriver == "" || !n.IsGuix() {
			t.Fatalf("item %d is %+v in its narinfo", i, n)
		}
		if f := n.Files; len(f) != 1 || f[0].FileSize != pub.Files[0].Size || f[0].Compression != pub.Files[0].Compression || "/"+f[0].URL != "/"+narinfo.NarURL(f[0].Compression, pub.Path.Base) {
			t.Fatalf("item %d has the files %+v in its narinfo", i, f)
		}
		// All but the two numbers is as in a real signature: the hash is right and the key is one.
		if _, err := guixkey.Signer(pub.Narinfo); !errors.Is(err, guixkey.ErrInvalid) {
			t.Fatalf("signature of item %d: %v", i, err)
		}
		if _, err := storepath.ParseBase(string(pub.Path.Base)); err != nil {
			t.Fatal(err)
		}
	})
}

func TestAPopulationHasTheShapeOfAFarms(t *testing.T) {
	p := population(t)
	const n = 20_000
	refs, bytes, most, used := 0, 0, 0, make([]int, n)
	for pub := range p.Publications(0, n) {
		refs += len(pub.References)
		bytes += len(pub.Narinfo)
		most = max(most, len(pub.References))
	}
	for i := range n {
		for _, ref := range p.References(i) {
			used[ref]++
		}
	}
	mean, size, top := float64(refs)/n, float64(bytes)/n, slices.Max(used)
	t.Logf("%.2f references on average, %d at most; narinfos of %.0f bytes; one item is referenced %d times", mean, most, size, top)
	if mean < 8.8 || mean > 9.8 || most < 100 || size < 1200 || size > 1600 || top < n/40 {
		t.Error("is not what the package says")
	}
}

func TestItemsFollowFromSeedAndNumber(t *testing.T) {
	p, again := population(t), population(t)
	other, err := New(2)
	if err != nil {
		t.Fatal(err)
	}
	seen := map[storepath.HashPart]bool{}
	for i := range 1000 {
		if !reflect.DeepEqual(p.Publication(i), again.Publication(i)) {
			t.Fatalf("item %d differs", i)
		}
		for _, h := range []storepath.HashPart{p.HashPart(i), other.HashPart(i), p.Miss(i)} {
			if seen[h] {
				t.Fatalf("%s twice", h)
			}
			seen[h] = true
		}
	}
}

func BenchmarkPublication(b *testing.B) {
	p := population(b)
	i := 0
	for b.Loop() {
		p.Publication(i + 1_000_000)
		i++
	}
}
