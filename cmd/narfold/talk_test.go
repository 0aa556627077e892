package main

import (
	"bytes"
	"context"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "write what the program says into testdata, to be read before it is committed")

// TestTalks holds the program to the conversations in testdata/talk: each runs in an empty directory with the files that follow
// it ("-- name --"), and consists of commands and what comes of them:
//
//	$ narfold nar hash x.nar < input > output
//	a line of standard output
//	! a line of standard error
//	? 4, the exit code, if it is not 0
//	## a remark
func TestTalks(t *testing.T) {
	names, err := filepath.Glob("testdata/talk/*.txt")
	if err != nil || len(names) == 0 {
		t.Fatalf("no conversations: %v", err)
	}
	for _, name := range names {
		name, err := filepath.Abs(name)
		if err != nil {
			t.Fatal(err)
		}
		t.Run(strings.TrimSuffix(filepath.Base(name), ".txt"), func(t *testing.T) {
			whole, err := os.ReadFile(name)
			if err != nil {
				t.Fatal(err)
			}
			talk, files := parseTalk(t, string(whole))
			t.Chdir(t.TempDir())
			for path, content := range files {
				if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			said := replay(t, talk)
			if said == talk {
				return
			}
			if *update {
				if err := os.WriteFile(name, []byte(said+strings.TrimPrefix(string(whole), talk)), 0o644); err != nil {
					t.Fatal(err)
				}
				return
			}
			t.Errorf("the conversation went another way (see -update):\n%s", firstDifference(said, talk))
		})
	}
}

// parseTalk splits a file into the conversation and the files.
func parseTalk(t *testing.T, whole string) (talk string, files map[string]string) {
	t.Helper()
	files = map[string]string{}
	at := ""
	for line := range strings.Lines(whole) {
		if name, ok := strings.CutPrefix(line, "-- "); ok {
			if name, ok = strings.CutSuffix(name, " --\n"); !ok || files[name] != "" {
				t.Fatalf("bad file line %q", line)
			}
			at = name
			files[at] = ""
		} else if at == "" {
			talk += line
		} else {
			files[at] += line
		}
	}
	return talk, files
}

// replay runs the commands of a conversation and returns it as it went.
func replay(t *testing.T, talk string) string {
	t.Helper()
	var said strings.Builder
	for line := range strings.Lines(talk) {
		command, ok := strings.CutPrefix(line, "$ ")
		if ok {
			said.WriteString(line)
			said.WriteString(runLine(t, strings.Fields(command)))
		} else if strings.HasPrefix(line, "## ") || line == "\n" {
			said.WriteString(line)
		}
	}
	return said.String()
}

// runLine runs one command and returns what a conversation shows of it.
func runLine(t *testing.T, words []string) string {
	t.Helper()
	var stdin []byte
	output := ""
	for i := len(words) - 2; i > 0; i-- {
		switch words[i] {
		case "<":
			var err error
			if stdin, err = os.ReadFile(words[i+1]); err != nil {
				t.Fatal(err)
			}
			words = slices.Delete(words, i, i+2)
		case ">":
			output = words[i+1]
			words = slices.Delete(words, i, i+2)
		}
	}
	if words[0] != "narfold" {
		t.Fatalf("a conversation is with narfold, not with %s", words[0])
	}
	stdout, stderr, code := narfold(t, stdin, words[1:]...)
	var said strings.Builder
	if output != "" {
		if err := os.WriteFile(output, stdout, 0o644); err != nil {
			t.Fatal(err)
		}
	} else {
		said.Write(stdout)
		if len(stdout) > 0 && stdout[len(stdout)-1] != '\n' {
			said.WriteString("\n")
		}
	}
	for line := range strings.Lines(stderr) {
		said.WriteString("! " + line)
	}
	if code != exitDone {
		fmt.Fprintf(&said, "? %d\n", int(code))
	}
	return said.String()
}

// narfold runs the program in-process.
func narfold(t testing.TB, stdin []byte, args ...string) (stdout []byte, stderr string, code exitCode) {
	t.Helper()
	return narfoldIn(t.Context(), stdin, args...)
}

func narfoldIn(ctx context.Context, stdin []byte, args ...string) (stdout []byte, stderr string, code exitCode) {
	var out, problems bytes.Buffer
	code = run(ctx, args, bytes.NewReader(stdin), &out, &problems)
	return out.Bytes(), problems.String(), code
}

func firstDifference(got, want string) string {
	g, w := strings.Split(got, "\n"), strings.Split(want, "\n")
	i := 0
	for i < len(g) && i < len(w) && g[i] == w[i] {
		i++
	}
	part := func(lines []string) string {
		return strings.Join(lines[min(i, len(lines)):min(i+12, len(lines))], "\n")
	}
	return fmt.Sprintf("line %d\n--- it said\n%s\n--- and not\n%s", i+1, part(g), part(w))
}
