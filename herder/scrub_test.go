package herder_test

import (
	"bytes"
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"narfold/herder/check"
	"narfold/internal/compress"
	"narfold/internal/objstore"
	"narfold/internal/storepath"
)

func TestADamagedObjectIsToldAndNotServedUntilItIsWhole(t *testing.T) {
	onBothStores(t, func(t *testing.T, f *farm) {
		it := item{dir: storepath.Guix, name: "damaged", text: strings.Repeat("text ", 1000)}
		f.publish([]compress.Method{compress.Zstd, compress.Gzip}, it)
		narinfo := "/" + string(it.path().HashPart()) + ".narinfo"
		// checked lets the herder hear of a check, as it does when one of its own has ended.
		checked := func(broken error) {
			t.Helper()
			cfg := f.scrub.Config
			cfg.Sample = 1
			r, err := check.Run(t.Context(), cfg)
			must(t, err)
			f.scrub.Told(r, broken)
		}
		// soon waits for an answer, since a herder notices within a fifth of a second.
		soon := func(what string, status, urls int) {
			t.Helper()
			var a answer
			for range 100 {
				if a = f.get("GET", narinfo); a.status == status && strings.Count(a.body, "URL:") == urls {
					return
				}
				time.Sleep(50 * time.Millisecond)
			}
			t.Fatalf("%s: %d %q", what, a.status, a.body)
		}
		soon("whole", http.StatusOK, 2)
		checked(nil)
		if m := f.get("GET", "/metrics").body; !strings.Contains(m, `narfold_check_found{kind="corrupt"} 0`) || !strings.Contains(m, "narfold_check_expanded_total 2") {
			t.Errorf("metrics after a check that found nothing:\n%s", m)
		}
		whole := map[compress.Method][]byte{}
		put := func(m compress.Method, b []byte) {
			t.Helper()
			k := f.object(it.path().Base, m)
			must(t, f.d.Objects.Delete(t.Context(), k))
			_, err := f.d.Objects.Put(t.Context(), k, objstore.Bytes(b), objstore.Condition{})
			must(t, err)
		}
		for _, m := range []compress.Method{compress.Gzip, compress.Zstd} {
			o, err := f.d.Objects.Get(t.Context(), f.object(it.path().Base, m), objstore.Range{})
			must(t, err)
			b, err := io.ReadAll(o)
			must(t, errors.Join(err, o.Close()))
			whole[m] = bytes.Clone(b)
			b[len(b)/2] ^= 1
			put(m, b)
			checked(nil)
			if m == compress.Gzip {
				soon("with one form damaged", http.StatusOK, 1)
				checked(errors.New("the store went away"))
			}
		}
		soon("with both damaged", http.StatusServiceUnavailable, 0)
		if log := f.logged.String(); !strings.Contains(log, "damage found") || !strings.Contains(log, string(it.path().Base)) {
			t.Errorf("the log does not name it:\n%s", log)
		}
		m := f.get("GET", "/metrics").body
		for _, want := range []string{`narfold_check_found{kind="corrupt"} 2`, "narfold_quarantine 2", "narfold_check_complete 1"} {
			if !strings.Contains(m, want) {
				t.Errorf("metrics have no %q", want)
			}
		}
		for method, b := range whole {
			put(method, b)
		}
		checked(nil)
		soon("whole again", http.StatusOK, 2)
	})
}
