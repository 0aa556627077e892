package main

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"os"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"unicode"

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
	about := "configuration"
	if e.file != "" {
		about += " " + e.file
	}
	// Keys and values of the file are quoted in it, with whatever characters they have.
	return about + ": " + strings.Map(func(r rune) rune {
		if unicode.IsControl(r) {
			return unicode.ReplacementChar
		}
		return r
	}, e.error.Error())
}
func (e *configError) Unwrap() error        { return e.error }
func (e *configError) Is(target error) bool { return target == errConfig }

// readConfig decodes a file strictly: a key that is not known is a typing mistake, and is named.
func readConfig(name string, into any) error {
	text, err := os.ReadFile(name)
	if err != nil {
		return &configError{name, fmt.Errorf("read: %w", err)}
	}
	if err := decodeConfig(text, into); err != nil {
		return &configError{name, err}
	}
	return nil
}

// decodeConfig decodes the text of a file into a pointer to a struct.
func decodeConfig(text []byte, into any) error {
	var values map[string]any
	if toml.Unmarshal(text, &values) == nil { // what is no TOML is told below
		if err := checkValues("", values, reflect.TypeOf(into).Elem()); err != nil {
			return err
		}
	}
	d := toml.NewDecoder(bytes.NewReader(text))
	d.DisallowUnknownFields()
	err := d.Decode(into)
	var strict *toml.StrictMissingError
	var wrong *toml.DecodeError
	switch {
	case errors.As(err, &strict):
		first := strict.Errors[0]
		line, _ := first.Position()
		return fmt.Errorf("line %d: %s: there is no such key", line, strings.Join(first.Key(), "."))
	case errors.As(err, &wrong):
		line, column := wrong.Position()
		where := fmt.Sprintf("line %d, column %d: ", line, column)
		if key := strings.Join(wrong.Key(), "."); key != "" {
			where += key + ": "
		}
		return errors.New(where + plainly(wrong))
	}
	return err
}

// checkValues finds what the decoder would take and the operator did not mean: a key in other letters, a number as a length of time,
// which would be nanoseconds. It also names the keys of values that the decoder hands to types that read texts, where it does not.
func checkValues(prefix string, values map[string]any, table reflect.Type) error {
	for _, name := range slices.Sorted(maps.Keys(values)) {
		for f := range table.Fields() {
			tag, value := f.Tag.Get("toml"), values[name]
			switch {
			case !strings.EqualFold(tag, name):
				continue
			case tag != name:
				return fmt.Errorf("%s%s: there is no such key; is %s meant?", prefix, name, tag)
			}
			within, isTable := value.(map[string]any)
			several, isArray := value.([]any)
			_, isText := value.(string)
			_, isNumber := value.(int64)
			switch {
			case isTable && f.Type.Kind() == reflect.Struct:
				if err := checkValues(prefix+tag+".", within, f.Type); err != nil {
					return err
				}
			case isArray && f.Type.Kind() == reflect.Slice && f.Type.Elem().Kind() == reflect.Struct:
				for i, one := range several {
					if within, isTable := one.(map[string]any); isTable {
						if err := checkValues(fmt.Sprintf("%s%s[%d].", prefix, tag, i), within, f.Type.Elem()); err != nil {
							return err
						}
					}
				}
			case f.Type == reflect.TypeFor[deployment.Duration]() && !isText:
				return fmt.Errorf(`%s%s: is %v: want a length of time in quotes, such as "36h"`, prefix, tag, value)
			case f.Type == reflect.TypeFor[deployment.Size]() && !isText && !isNumber:
				return fmt.Errorf(`%s%s: is %v: want a size in quotes, such as "1GiB"`, prefix, tag, value)
			}
		}
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
	case strings.HasSuffix(kind, "deployment.Upstream"):
		want = "want tables that begin with [[upstream]]"
	case strings.HasPrefix(kind, "[]"):
		want = "want an array, such as [\"...\"]"
	case kind == "int":
		want = "want a number"
	case kind == "bool":
		want = "want true or false"
	case strings.HasPrefix(kind, "deployment."):
		want = "want a table"
	}
	return "is " + m[1] + ": " + want
}
