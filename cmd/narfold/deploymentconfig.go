package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"regexp"
	"strings"

	"github.com/pelletier/go-toml/v2"

	"narfold/herder/deployment"
)

// errConfig is wrapped by mistakes in a configuration file. They are usage, and no accident.
var errConfig = deployment.ErrConfig

// configError is a mistake in a configuration file, or on the command line if it has no file.
type configError struct {
	file string
	error
}

func (e *configError) Error() string {
	if e.file == "" {
		return "configuration: " + e.error.Error()
	}
	return "configuration " + e.file + ": " + e.error.Error()
}
func (e *configError) Unwrap() error        { return e.error }
func (e *configError) Is(target error) bool { return target == errConfig }

// readConfig decodes a file strictly: a key that is not known is a typing mistake, and is named.
func readConfig(name string, into any) error {
	text, err := os.ReadFile(name)
	if err != nil {
		return &configError{name, fmt.Errorf("read: %w", err)}
	}
	d := toml.NewDecoder(bytes.NewReader(text))
	d.DisallowUnknownFields()
	err = d.Decode(into)
	var strict *toml.StrictMissingError
	var wrong *toml.DecodeError
	switch {
	case errors.As(err, &strict):
		first := strict.Errors[0]
		line, _ := first.Position()
		return &configError{name, fmt.Errorf("line %d: %s: there is no such key", line, strings.Join(first.Key(), "."))}
	case errors.As(err, &wrong):
		line, column := wrong.Position()
		where := fmt.Sprintf("line %d, column %d: ", line, column)
		if key := strings.Join(wrong.Key(), "."); key != "" {
			where += key + ": "
		}
		return &configError{name, errors.New(where + plainly(wrong))}
	case err != nil:
		return &configError{name, err}
	}
	return nil
}

// mistyped is what the decoder says of a value of another type than the key's: in words of Go, which are not the operator's.
var mistyped = regexp.MustCompile(`^cannot decode TOML (.+) into .*?of type (\S+)$`)

// plainly says what is wrong with a value.
func plainly(e *toml.DecodeError) string {
	text := strings.TrimPrefix(e.Error(), "toml: ")
	m := mistyped.FindStringSubmatch(text)
	if m == nil {
		return text
	}
	want := "want a text in quotes"
	switch kind := m[2]; {
	case strings.HasPrefix(kind, "[]"):
		want = "want an array, such as [\"...\"]"
	case kind == "int":
		want = "want a number"
	case kind == "bool":
		want = "want true or false"
	case kind == "deployment.Duration":
		want = "want a length of time in quotes, such as \"36h\""
	case kind == "deployment.Size":
		want = "want a size in quotes, such as \"1GiB\""
	case kind == "deployment.Objects", kind == "deployment.Keys", kind == "deployment.Serve", kind == "deployment.Publish", kind == "deployment.TLS":
		want = "want a table"
	}
	return "is " + m[1] + ": " + want
}
