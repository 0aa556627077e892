package keyring_test

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"narfold/herder/keyring"
	"narfold/internal/compress"
	"narfold/internal/digest"
	"narfold/internal/guixkey"
	"narfold/internal/narinfo"
	"narfold/internal/storepath"
)

func keep(t *testing.T, text []byte) string {
	t.Helper()
	name := filepath.Join(t.TempDir(), "key")
	if err := os.WriteFile(name, text, 0o600); err != nil {
		t.Fatal(err)
	}
	return name
}

// pair makes a key for items of dir and returns its files.
func pair(t *testing.T, dir storepath.Dir, host string) (secret, public string) {
	t.Helper()
	p, err := keyring.Generate(dir, host)
	if err != nil {
		t.Fatal(err)
	}
	return keep(t, p.Secret), keep(t, p.Public)
}

func load(t *testing.T, files ...string) *keyring.Ring {
	t.Helper()
	r, err := keyring.Load("farm.example", files...)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func item(dir storepath.Dir) *narinfo.Narinfo {
	return &narinfo.Narinfo{
		StorePath: storepath.Path{Dir: dir, Base: "gpr97dmy8mpg1w10hbkg3cwmx4c1spc7-hello-2.12.1"}, NarHash: digest.Of([]byte("nar")), NarSize: 3,
		Files: []narinfo.File{{URL: "nar/zstd/x", Compression: compress.Zstd, FileSize: 2}},
	}
}

func parse(t *testing.T, raw []byte) *narinfo.Narinfo {
	t.Helper()
	n, err := narinfo.Parse(raw)
	if err != nil {
		t.Fatalf("%v\n%s", err, raw)
	}
	return n
}

func seal(t *testing.T, r *keyring.Ring, n *narinfo.Narinfo) *narinfo.Narinfo {
	t.Helper()
	raw, err := r.Seal(n, true)
	if err != nil {
		t.Fatal(err)
	}
	return parse(t, raw)
}

func TestKeysOfEitherDialectAreToldByTheirContent(t *testing.T) {
	guixSecret, guixPublic := pair(t, storepath.Guix, "a")
	nixSecret, nixPublic := pair(t, storepath.Nix, "a")
	text, err := os.ReadFile(guixPublic)
	if err != nil {
		t.Fatal(err)
	}
	public, err := guixkey.ParsePublic(text)
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		file                     string
		signsGuix, signsNix, ask bool
	}{
		"Guix secret": {guixSecret, true, false, false},
		"Guix public": {guixPublic, false, false, true},
		"Guix acl":    {keep(t, guixkey.Authorize(public).File()), false, false, true},
		"Nix secret":  {nixSecret, false, true, false},
		"Nix public":  {nixPublic, false, false, true},
	} {
		r := load(t, c.file)
		if r.Signs(storepath.Guix) != c.signsGuix || r.Signs(storepath.Nix) != c.signsNix || r.Demands() != c.ask || r.HasSecret() != (c.signsGuix || c.signsNix) {
			t.Errorf("%s: signs Guix %v, Nix %v, demands %v", name, r.Signs(storepath.Guix), r.Signs(storepath.Nix), r.Demands())
		}
	}
}

func TestWhatIsNoKeyOrTwoOfOneIsRefused(t *testing.T) {
	one, _ := pair(t, storepath.Guix, "a")
	two, _ := pair(t, storepath.Guix, "a")
	nixOne, _ := pair(t, storepath.Nix, "same")
	_, nixTwo := pair(t, storepath.Nix, "same")
	for name, c := range map[string]struct {
		files []string
		want  string
	}{
		"text":                   {[]string{keep(t, []byte("hello"))}, "not a key"},
		"an empty file":          {[]string{keep(t, nil)}, "not a key"},
		"another expression":     {[]string{keep(t, []byte("(data (x))"))}, "access list"},
		"two Guix secrets":       {[]string{one, two}, "a second Guix secret key"},
		"two keys with one name": {[]string{nixOne, nixTwo}, `two keys are named "same-1"`},
		"no file":                {[]string{filepath.Join(t.TempDir(), "absent")}, "no such file"},
	} {
		if r, err := keyring.Load("", c.files...); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, %v; want %q", name, r, err, c.want)
		}
	}
}

func TestSealSignsForTheClientsOfTheStore(t *testing.T) {
	guixSecret, guixPublic := pair(t, storepath.Guix, "a")
	nixSecret, nixPublic := pair(t, storepath.Nix, "a")
	both := load(t, guixSecret, nixSecret)
	guix := seal(t, both, item(storepath.Guix))
	if guix.Signature == "" || len(guix.Sigs) != 1 {
		t.Errorf("an item of /gnu/store has Signature %q, Sigs %q", guix.Signature, guix.Sigs)
	}
	nix := seal(t, both, item(storepath.Nix))
	if nix.Signature != "" || len(nix.Sigs) != 1 {
		t.Errorf("an item of /nix/store has Signature %q, Sigs %q", nix.Signature, nix.Sigs)
	}
	for _, public := range []string{guixPublic, nixPublic} {
		if err := load(t, public).Check(guix, true); err != nil {
			t.Errorf("%s: %v", public, err)
		}
	}
	if err := load(t, nixPublic).Check(nix, true); err != nil {
		t.Error(err)
	}
	if err := load(t, guixPublic).Check(nix, true); !errors.Is(err, keyring.ErrSignature) {
		t.Errorf("a Guix key is found to have signed a Nix narinfo: %v", err)
	}
}

func TestSealKeepsWhatOthersSigned(t *testing.T) {
	theirs := seal(t, load(t, first(pair(t, storepath.Guix, "theirs"))), item(storepath.Guix))
	ours := load(t, first(pair(t, storepath.Guix, "ours")), first(pair(t, storepath.Nix, "ours")))
	for name, sign := range map[string]bool{"as it came": false, "with our signature beside": true} {
		raw, err := ours.Seal(theirs, sign)
		if err != nil {
			t.Fatal(err)
		}
		n := parse(t, raw)
		if !bytes.Equal(n.SignedPart(), theirs.SignedPart()) || n.Signature != theirs.Signature {
			t.Errorf("%s: what was signed changed:\n%s", name, raw)
		}
		if want := map[bool]int{false: 0, true: 1}[sign]; len(n.Sigs) != want {
			t.Errorf("%s: %d Sigs", name, len(n.Sigs))
		}
		if !sign && !bytes.Equal(raw, theirs.Raw) {
			t.Errorf("%s: it changed:\n%s", name, raw)
		}
	}
}

func TestSealingTwiceAddsNothing(t *testing.T) {
	r := load(t, first(pair(t, storepath.Nix, "a")))
	once := seal(t, r, item(storepath.Nix))
	if twice := seal(t, r, once); !bytes.Equal(once.Raw, twice.Raw) {
		t.Errorf("first\n%s\nthen\n%s", once.Raw, twice.Raw)
	}
}

func TestCheckRefusesForgeriesWithAndWithoutDemand(t *testing.T) {
	secret, public := pair(t, storepath.Nix, "a")
	signed := seal(t, load(t, secret), item(storepath.Nix))
	forged := parse(t, bytes.Replace(signed.Raw, []byte("NarSize: 3"), []byte("NarSize: 4"), 1))
	_, stranger := pair(t, storepath.Nix, "stranger")
	for name, c := range map[string]struct {
		ring   *keyring.Ring
		n      *narinfo.Narinfo
		demand bool
		good   bool
	}{
		"signed, trusted, demanded":          {load(t, public), signed, true, true},
		"signed by a stranger, demanded":     {load(t, stranger), signed, true, false},
		"signed by a stranger, not demanded": {load(t, stranger), signed, false, true},
		"unsigned, nobody trusted":           {load(t, secret), parse(t, narinfo.Nix(item(storepath.Nix))), true, true},
		"forged, demanded":                   {load(t, public), forged, true, false},
		"forged, not demanded":               {load(t, public), forged, false, false},
		"forged in our own name":             {load(t, secret), forged, false, false},
		"unsigned, demanded":                 {load(t, public), parse(t, narinfo.Nix(item(storepath.Nix))), true, false},
	} {
		if err := c.ring.Check(c.n, c.demand); (err == nil) != c.good || err != nil && !errors.Is(err, keyring.ErrSignature) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func first(secret, _ string) string { return secret }
