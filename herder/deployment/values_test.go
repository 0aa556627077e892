package deployment

import (
	"reflect"
	"testing"
	"time"
)

func TestDurations(t *testing.T) {
	for text, want := range map[string]time.Duration{"90s": 90 * time.Second, "36h": 36 * time.Hour, "30d": 720 * time.Hour, "1h30m": 90 * time.Minute, "0s": 0, "0": 0, "65535d": 65535 * 24 * time.Hour} {
		var d Duration
		if err := d.UnmarshalText([]byte(text)); err != nil || time.Duration(d) != want {
			t.Errorf("%q is %v, %v; want %v", text, time.Duration(d), err, want)
		}
	}
	for _, text := range []string{"", "d", "3", "-1h", "-1d", "1.5d", "70000d", "1h 30m", "soon", "1e9h"} {
		d := Duration(7)
		if err := d.UnmarshalText([]byte(text)); err == nil || d != 7 {
			t.Errorf("%q is %v, %v", text, time.Duration(d), err)
		}
	}
}

func TestSizes(t *testing.T) {
	for text, want := range map[string]Size{"0": 0, "1000000": 1e6, "512KiB": 512 << 10, "512 MiB": 512 << 20, "1GiB": 1 << 30, "3TiB": 3 << 40} {
		var z Size
		if err := z.UnmarshalText([]byte(text)); err != nil || z != want {
			t.Errorf("%q is %d, %v; want %d", text, z, err, want)
		}
	}
	for _, text := range []string{"", "GiB", "-1", "-1GiB", "1GB", "1.5GiB", "99999999TiB", "99999999999999999999", "lots"} {
		z := Size(7)
		if err := z.UnmarshalText([]byte(text)); err == nil || z != 7 {
			t.Errorf("%q is %d, %v", text, z, err)
		}
	}
}

func FuzzValuesComeBack(f *testing.F) {
	for _, s := range []string{"36h", "30d", "0", "1.5h", "1GiB", "99999999TiB", "9223372036854775807", "106751d"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		var d, d2 Duration
		if d.UnmarshalText([]byte(s)) == nil {
			text, err := d.MarshalText()
			if err != nil || d < 0 || d2.UnmarshalText(text) != nil || d2 != d {
				t.Errorf("%q: %v came back from %q as %v (%v)", s, time.Duration(d), text, time.Duration(d2), err)
			}
		}
		var z, z2 Size
		if z.UnmarshalText([]byte(s)) == nil {
			text, err := z.MarshalText()
			if err != nil || z < 0 || z2.UnmarshalText(text) != nil || z2 != z {
				t.Errorf("%q: %d came back from %q as %d (%v)", s, z, text, z2, err)
			}
		}
	})
}

func TestWhatTakesARestart(t *testing.T) {
	for name, c := range map[string]struct {
		change func(*Config)
		want   []string
	}{
		"nothing":               {func(c *Config) {}, nil},
		"what clients are told": {func(c *Config) { c.Serve.TTL, c.Serve.Priority = 0, 3 }, nil},
		"another certificate":   {func(c *Config) { c.TLS.CertificateFile = "/other" }, nil},
		"no certificate":        {func(c *Config) { c.TLS = TLS{} }, []string{"tls.certificate_file", "tls.key_file"}},
		"everything else": {func(c *Config) {
			c.State, c.Listen, c.DebugListen, c.Objects.Prefix, c.Keys.Sign, c.Publish.Reserve = "/b", []string{"[::]:80"}, "[::1]:1", "p", []string{"/k"}, 0
		}, []string{"debug_listen", "keys.sign", "listen", "objects.prefix", "publish.reserve", "state"}},
	} {
		t.Run(name, func(t *testing.T) {
			before := Defaults("/a")
			before.TLS = TLS{"/cert", "/key"}
			after := Defaults("/a")
			after.TLS = before.TLS
			c.change(&after)
			if got := before.Restart(after); !reflect.DeepEqual(got, c.want) {
				t.Errorf("%q, want %q", got, c.want)
			}
		})
	}
}
