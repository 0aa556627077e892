package deployment

import (
	"reflect"
	"slices"
)

// Restart returns the keys that a running herder, opened with c, does not take over from changed: those that differ and are about
// more than what clients are told. A certificate may be replaced, but not come or go.
func (c *Config) Restart(changed Config) []string {
	had, has := c.TLS != TLS{}, changed.TLS != TLS{}
	keys := differing("", reflect.ValueOf(*c), reflect.ValueOf(changed), func(key string) bool {
		return key == "serve" || key == "tls" && had == has
	})
	slices.Sort(keys)
	return keys
}

// differing returns the keys of a table whose values differ, but for those that skip names.
func differing(prefix string, a, b reflect.Value, skip func(key string) bool) (keys []string) {
	for i := range a.NumField() {
		key := prefix + a.Type().Field(i).Tag.Get("toml")
		x, y := a.Field(i), b.Field(i)
		switch {
		case skip(key):
		case x.Kind() == reflect.Struct:
			keys = append(keys, differing(key+".", x, y, skip)...)
		case !reflect.DeepEqual(x.Interface(), y.Interface()):
			keys = append(keys, key)
		}
	}
	return keys
}
