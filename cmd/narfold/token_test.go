package main

import (
	"encoding/json"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"narfold/herder/deployment"
	"narfold/internal/catalog"
)

// tokensOf lists the tokens of a state folder as the program tells them.
func tokensOf(t *testing.T, state string) (tokens []catalog.Token) {
	t.Helper()
	if err := json.Unmarshal(must(t, nil, "token", "list", "--state", state, "--json"), &tokens); err != nil {
		t.Fatal(err)
	}
	return tokens
}

var tokenText = regexp.MustCompile(`^narfold_[A-Za-z0-9_-]{43}$`)

func TestTheLifeOfATokenIsListed(t *testing.T) {
	state := t.TempDir()
	must(t, nil, "token", "create", "--state", state, "--scope", "publish", "--name", "ci")
	if got := tokensOf(t, state); len(got) != 1 || got[0].Name != "ci" || !got[0].Expires.IsZero() || !got[0].Revoked.IsZero() {
		t.Errorf("listed %+v", got)
	}
	must(t, nil, "token", "create", "--state", state, "--scope", "mirror", "--scope", "read", "--name", "europe", "--expires", "30d")
	must(t, nil, "token", "revoke", "--state", state, "ci")
	now := time.Now().UTC()
	list := string(must(t, nil, "token", "list", "--state", state))
	for _, want := range []string{
		`(?m)^NAME +SCOPES +CREATED +STATE$`,
		`(?m)^ci +publish +` + now.Format("2006-01-02") + ` +revoked ` + now.Format("2006-01-02") + `$`,
		`(?m)^europe +mirror,read +\S+ +good until ` + now.AddDate(0, 0, 30).Format("2006-01-02") + ` \d\d:\d\d$`,
	} {
		if !regexp.MustCompile(want).MatchString(list) {
			t.Errorf("listed\n%s\nwant %s", list, want)
		}
	}
	// A name may be used again when it is free.
	if _, stderr, code := narfold(t, nil, "token", "create", "--state", state, "--scope", "read", "--name", "europe"); code != exitRefused || !strings.Contains(stderr, `"europe": the name is in use`) {
		t.Errorf("second token of a name: exit code %d, said %q", code, stderr)
	}
	must(t, nil, "token", "create", "--state", state, "--scope", "publish", "--name", "ci")
	if got := tokensOf(t, state); len(got) != 3 {
		t.Errorf("listed %+v", got)
	}
}

func TestTokenStates(t *testing.T) {
	day := func(n int) time.Time { return time.Date(2026, 5, n, 12, 0, 0, 0, time.UTC) }
	for want, token := range map[string]catalog.Token{
		"good":                        {},
		"good until 2026-05-03 12:00": {Expires: day(3)},
		"expired 2026-05-02":          {Expires: day(2)}, // to the moment
		"revoked 2026-05-01":          {Expires: day(3), Revoked: day(1)},
	} {
		if got := tokenState(token, day(2)); got != want {
			t.Errorf("%+v is %q, want %q", token, got, want)
		}
	}
}

func TestATokenIsToldOnce(t *testing.T) {
	state := filepath.Join(t.TempDir(), "state")
	text := strings.TrimSuffix(string(must(t, nil, "token", "create", "--state", state, "--scope", "publish", "--name", "a")), "\n")
	if !tokenText.MatchString(text) {
		t.Errorf("told %q", text)
	}
	var told struct {
		Name, Token, File string
		Scopes            []string
	}
	if err := json.Unmarshal(must(t, nil, "token", "create", "--state", state, "--scope", "publish", "--name", "b", "--json"), &told); err != nil {
		t.Fatal(err)
	}
	if told.Name != "b" || !tokenText.MatchString(told.Token) || told.File != "" || len(told.Scopes) != 1 || told.Scopes[0] != "publish" {
		t.Errorf("told %+v", told)
	}
	if list := string(must(t, nil, "token", "list", "--state", state, "--json")); strings.Contains(list, text) || strings.Contains(list, told.Token) {
		t.Errorf("the list tells tokens: %s", list)
	}
	// Neither is it in any file of the deployment.
	err := filepath.WalkDir(state, func(name string, e fs.DirEntry, err error) error {
		if err != nil || !e.Type().IsRegular() {
			return err
		}
		if b := slurp(t, name); strings.Contains(string(b), text) || strings.Contains(string(b), told.Token) {
			t.Errorf("%s holds a token", name)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

func TestATokenInAFile(t *testing.T) {
	dir := t.TempDir()
	state, out := filepath.Join(dir, "state"), filepath.Join(dir, "ci.token")
	stdout := string(must(t, nil, "token", "create", "--state", state, "--scope", "publish", "--name", "ci", "--out", out))
	if want := "token \"ci\" is in " + out + "\n"; stdout != want {
		t.Errorf("answered %q, want %q", stdout, want)
	}
	before := slurp(t, out)
	if !tokenText.MatchString(strings.TrimSuffix(string(before), "\n")) {
		t.Errorf("the file holds %q", before)
	}
	if st, err := os.Stat(out); err != nil || st.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", st.Mode(), err)
	}
	if _, stderr, code := narfold(t, nil, "token", "create", "--state", state, "--scope", "publish", "--name", "other", "--out", out); code != exitRefused || !strings.Contains(stderr, out) {
		t.Errorf("over a file that is there: exit code %d, said %q", code, stderr)
	}
	if after := slurp(t, out); string(after) != string(before) {
		t.Errorf("the file holds %q, it held %q", after, before)
	}
	if got := tokensOf(t, state); len(got) != 1 {
		t.Errorf("a token that nobody holds is good: %+v", got)
	}
	// And a token that is refused leaves no file.
	gone := filepath.Join(dir, "gone.token")
	if _, _, code := narfold(t, nil, "token", "create", "--state", state, "--scope", "publish", "--name", "ci", "--out", gone); code != exitRefused {
		t.Errorf("second token of a name: exit code %d", code)
	}
	if _, err := os.Stat(gone); !os.IsNotExist(err) {
		t.Errorf("a token that is not good is in %s: %v", gone, err)
	}
}

func TestATokenWithoutANameIsNamedAfterItsScopes(t *testing.T) {
	state := t.TempDir()
	must(t, nil, "token", "create", "--state", state, "--scope", "publish,mirror")
	if got := tokensOf(t, state); len(got) != 1 || !regexp.MustCompile(`^publish\+mirror-\d{8}-\d{6}$`).MatchString(got[0].Name) || len(got[0].Scopes) != 2 {
		t.Errorf("listed %+v", got)
	}
}

func TestAnExpiredTokenIsNotGood(t *testing.T) {
	state := t.TempDir()
	text := must(t, nil, "token", "create", "--state", state, "--scope", "publish", "--expires", "1h")
	c, err := deployment.OpenCatalogue(t.Context(), deployment.Defaults(state), false)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	token, err := c.Token(t.Context(), catalog.HashToken(string(text)))
	if err != nil {
		t.Fatal(err)
	}
	if lasts := token.Expires.Sub(token.Created); lasts != time.Hour {
		t.Errorf("it lasts %v", lasts)
	}
	if err := token.Allows(catalog.ScopePublish, token.Expires.Add(-time.Second)); err != nil {
		t.Errorf("before its end: %v", err)
	}
	if err := token.Allows(catalog.ScopePublish, token.Expires); err == nil {
		t.Error("it is good at its end")
	}
}

func TestTokensThatCannotBe(t *testing.T) {
	state, nowhere := t.TempDir(), filepath.Join(t.TempDir(), "nowhere")
	must(t, nil, "token", "create", "--state", state, "--scope", "read", "--name", "r")
	for name, c := range map[string]struct {
		args []string
		code exitCode
		says string
	}{
		"no scope":              {[]string{"create", "--state", state}, exitUsage, "--scope"},
		"unknown scope":         {[]string{"create", "--state", state, "--scope", "write"}, exitUsage, `--scope: scope "write" is not one of publish, mirror, read, admin`},
		"expired":               {[]string{"create", "--state", state, "--scope", "read", "--expires=-1h"}, exitUsage, "--expires"},
		"expiry that is none":   {[]string{"create", "--state", state, "--scope", "read", "--expires", "soon"}, exitUsage, `"soon" is not a length of time`},
		"name of two lines":     {[]string{"create", "--state", state, "--scope", "read", "--name", "a\nb"}, exitUsage, "--name: "},
		"revoke what is not":    {[]string{"revoke", "--state", state, "ci"}, exitRefused, "  try: narfold token list --state " + state},
		"list what is not":      {[]string{"list", "--state", nowhere}, exitRefused, "no deployment here: "},
		"revoke where is none":  {[]string{"revoke", "--state", nowhere, "ci"}, exitRefused, "no deployment here: "},
		"out into no directory": {[]string{"create", "--state", state, "--scope", "read", "--name", "x", "--out", filepath.Join(nowhere, "token")}, exitRefused, nowhere},
	} {
		t.Run(name, func(t *testing.T) {
			if stdout, stderr, code := narfold(t, nil, append([]string{"token"}, c.args...)...); code != c.code || !strings.Contains(stderr, c.says) || len(stdout) > 0 {
				t.Errorf("exit code %d, answered %q, said %q", code, stdout, stderr)
			}
		})
	}
	if _, err := os.Stat(nowhere); !os.IsNotExist(err) {
		t.Errorf("looking has made a deployment: %v", err)
	}
	if got := tokensOf(t, state); len(got) != 1 {
		t.Errorf("listed %+v", got)
	}
}
