package main

import (
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"narfold/herder/deployment"
	"narfold/internal/compress"
)

// TestAMistakeInTheConfigurationIsNamed runs the program with each mistake, and wants the exit code of usage and the key's name.
func TestAMistakeInTheConfigurationIsNamed(t *testing.T) {
	dir := t.TempDir()
	state := "state = '" + filepath.Join(dir, "state") + "'\n"
	spit(t, filepath.Join(dir, "text"), []byte("not a key\n"))
	must(t, nil, "key", "generate", "--dialect", "nix", "--name", "a-1", "--secret", filepath.Join(dir, "a.sec"), "--public", filepath.Join(dir, "a.pub"))
	must(t, nil, "key", "generate", "--dialect", "guix", "--secret", filepath.Join(dir, "g.sec"), "--public", filepath.Join(dir, "g.pub"))
	must(t, nil, "key", "generate", "--dialect", "guix", "--secret", filepath.Join(dir, "h.sec"), "--public", filepath.Join(dir, "h.pub"))
	spit(t, filepath.Join(dir, "one-word"), []byte("AKIA\n"))
	bucket := "endpoint = 'http://127.0.0.1:1'\nbucket = 'b'\n"
	upstream := "[[upstream]]\nurl = 'https://cache.example.org'\ntrust = ['/gone']\n"
	for _, c := range []struct{ config, says string }{
		// What is no TOML, or no key.
		{"state = 'x", "line 1, column"},
		{state + "state = '/y'\n", "line 2, column 1: state: key state is already defined"},
		{state + "lisen = ['127.0.0.1:80']\n", "line 2: lisen: there is no such key"},
		{state + "[objects]\nbuckt = 'x'\n", "line 3: objects.buckt: there is no such key"},
		{state + "[object]\nbucket = 'x'\n", "line 2: object: there is no such key"},
		{state + "[serve]\nTTL = '1h'\n", "serve.TTL: there is no such key; is ttl meant?"},
		{state + "[Serve]\nttl = '1h'\n", "Serve: there is no such key; is serve meant?"},
		// Values of another type.
		{"state = 3\n", "line 1, column 9: state: is integer: want a text in quotes"},
		{state + "listen = '127.0.0.1:80'\n", "line 2, column 10: listen: is string: want an array"},
		{state + "listen = [80]\n", "line 2, column 11: listen: is integer: want a text in quotes"},
		{state + "objects = 's3'\n", "objects: is string: want a table"},
		{state + "[serve]\npriority = 'high'\n", "serve.priority: is string: want a number"},
		{state + "[objects]\nredirect = 'yes'\n", "objects.redirect: is string: want true or false"},
		{state + "[serve]\nttl = true\n", "serve.ttl: is true: want a length of time in quotes"},
		{state + "[publish]\nreserve = 1.5\n", "publish.reserve: is 1.5: want a size in quotes"},
		{state + "[serve]\npriority = 99999999999999999999\n", "serve.priority: "},
		// Values that cannot be.
		{"", "state: want the folder"},
		{"state = 'here'\n", `state: "here": want an absolute path`},
		{state + "listen = []\n", "listen: want at least one"},
		{state + "listen = ['127.0.0.1:1', 'localhost']\n", `listen[1]: "localhost": want host:port`},
		{state + "listen = ['127.0.0.1:http']\n", "listen[0]: "},
		{state + "listen = ['127.0.0.1:70000']\n", "listen[0]: "},
		{state + "listen = ['[::1]:1', '[::1]:1']\n", "listen[1]: \"[::1]:1\": is there twice"},
		{state + "debug_listen = '0.0.0.0:6060'\n", "debug_listen: "},
		{state + "debug_listen = '127.0.0.1'\n", "debug_listen: "},
		{state + "[serve]\nttl = '3 weeks'\n", `serve.ttl: "3 weeks" is not a length of time such as`},
		{state + "[serve]\nttl = '-3h'\n", "serve.ttl: "},
		{state + "[serve]\nttl = 3600\n", "serve.ttl: is 3600: want a length of time in quotes"},
		{state + "[serve]\nnegative_ttl = '1500ms'\n", "serve.negative_ttl: 1.5s: want whole seconds"},
		{state + "[serve]\nstore_dir = 'nix/store'\n", "serve.store_dir: "},
		{state + "[serve]\npriority = 0\n", "serve.priority: 0: want a number from 1"},
		{state + "[serve]\nprefer = 'zip'\n", `serve.prefer: compression "zip" is not known`},
		{state + "[publish]\ncompressions = ['zstd', 'brotli']\n", `publish.compressions[1]: "brotli": want`},
		{state + "[publish]\ncompressions = ['zstd', 'zstd']\n", "publish.compressions[1]: "},
		{state + "[publish]\nlevel = '9'\n", `publish.level: "9": want fastest, default or best`},
		{state + "[publish]\nreserve = 'lots'\n", `publish.reserve: "lots" is not a size such as`},
		{state + "[publish]\nreserve = '-1'\n", "publish.reserve: "},
		{state + "[publish]\nreserve = -1\n", "publish.reserve: -1: want a size"},
		{state + "[check]\nevery = '5m'\n", `check.every: 5m0s: want "0s" or at least 1h`},
		{state + "[check]\nrate = -1\n", "check.rate: -1: want bytes a second"},
		{state + "[keys]\nhost = 'a:b'\n", "keys.host: "},
		{state + "[keys]\nhost = 'a;b'\n", "keys.host: "},
		{state + "[objects]\nendpoint = 's3.example.org'\nbucket = 'b'\n", "objects.endpoint: "},
		{state + "[objects]\nendpoint = 'https://s3.example.org/bucket'\nbucket = 'b'\n", "objects.endpoint: "},
		{state + "[objects]\n" + bucket + "prefix = '/a/'\n", "objects.prefix: "},
		{state + "[objects]\n" + bucket + "path_style = 'host'\n", "objects.path_style: "},
		{state + "[objects]\ndirectory = 'objects'\n", "objects.directory: \"objects\": want an absolute path"},
		// Keys that contradict each other.
		{state + "[serve]\nttl = '1h'\nnew_ttl = '2h'\n", "serve.new_ttl: 2h0m0s is longer than serve.ttl, 1h0m0s"},
		{state + "[objects]\nbucket = 'b'\n", "objects.bucket: is set, but objects.endpoint is not"},
		{state + "[objects]\ncredentials_file = '/b'\n", "objects.credentials_file: is set, but objects.endpoint is not"},
		{state + "[objects]\nredirect = true\n", "objects.redirect: a directory store has nowhere to redirect to"},
		{state + "[objects]\nendpoint = 'http://127.0.0.1:1'\n", "objects.bucket: "},
		{state + "[objects]\n" + bucket + "directory = '/srv/objects'\n", "objects.directory: is set beside objects.endpoint"},
		{state + "[objects]\n" + bucket + "access_key_file = '/a'\n", "objects.secret_key_file: want it beside objects.access_key_file"},
		{state + "[objects]\n" + bucket + "secret_key_file = '/a'\n", "objects.access_key_file: want it beside objects.secret_key_file"},
		{state + "[objects]\n" + bucket + "credentials_file = '/c'\naccess_key_file = '/a'\nsecret_key_file = '/b'\n", "objects.access_key_file: is set beside objects.credentials_file"},
		{state + "[objects]\ndirectory = '" + dir + "'\n", "objects.directory: "},
		{state + "[objects]\ndirectory = '" + filepath.Join(dir, "state", "keys") + "'\n", "objects.directory: "},
		{state + "[tls]\ncertificate_file = '/a'\n", "tls.key_file: want it beside tls.certificate_file"},
		{state + "[tls]\nkey_file = '/a'\n", "tls.certificate_file: want it beside tls.key_file"},
		{state + "[tls]\ncertificate_file = 'a'\nkey_file = '/b'\n", "tls.certificate_file: \"a\": want an absolute path"},
		{state + "upstream = 'x'\n", "upstream: is string: want tables that begin with [[upstream]]"},
		{state + upstream + "evry = '1h'\n", "line 5: upstream.evry: there is no such key"},
		{state + upstream + "every = 900\n", "upstream[0].every: is 900: want a length of time in quotes"},
		{state + upstream + "Every = '1h'\n", "upstream[0].Every: there is no such key; is every meant?"},
		{state + upstream + "every = '1ms'\n", "upstream[0].every: 1ms: want a length of time"},
		{state + upstream + "rate = -1\n", "upstream[0].rate: -1: want bytes in a second"},
		{state + upstream + "list = 'paths'\n", "upstream[0].list: \"paths\": want an absolute path"},
		{state + upstream + "items = ['hello']\n", "upstream[0].items[0]: \"hello\": want a store path"},
		{state + upstream + "feed_key = '/f'\nlist = '/l'\n", "upstream[0].feed_key: is set beside items or list"},
		{state + upstream + upstream, "upstream[1].url: \"https://cache.example.org\": is there twice"},
		{state + "[[upstream]]\nurl = 'https://cache.example.org'\n", "upstream[0].trust: want the files"},
		{state + "[[upstream]]\nurl = 'https://cache.example.org'\ntrust = ['a']\n", "upstream[0].trust[0]: \"a\": want the absolute path"},
		{state + "[[upstream]]\nurl = 's3://bucket'\ntrust = ['/a']\n", "upstream[0].url: \"s3://bucket\": want the URL"},
		// Files that are not what the key is for.
		{state + upstream, "upstream[0].trust: read key: open "},
		{state + strings.Replace(upstream, "/gone", dir+"/a.sec", 1), "upstream[0].trust: there is a secret key in it"},
		{state + strings.Replace(upstream, "/gone", dir+"/a.pub", 1) + "feed_key = '" + dir + "/text'\n", "upstream[0].feed_key: " + dir + "/text: "},
		{state + "[keys]\nsign = ['a.sec']\n", "keys.sign[0]: \"a.sec\": want the absolute path"},
		{state + "[keys]\nsign = ['" + dir + "/a.sec', '" + dir + "/gone']\n", "keys.sign[1]: read key: open "},
		{state + "[keys]\nsign = ['" + dir + "/text']\n", "keys.sign[0]: read key " + dir + "/text: not a key"},
		{state + "[keys]\nsign = ['" + dir + "/a.pub']\n", "keys.sign[0]: " + dir + "/a.pub: is no secret key"},
		{state + "[keys]\nsign = ['" + dir + "/g.sec', '" + dir + "/h.sec']\n", "keys: read key " + dir + "/h.sec: a second Guix secret key"},
		{state + "[keys]\ntrust = ['" + dir + "/g.sec']\n", "keys.trust[0]: " + dir + "/g.sec: is a secret key"},
		{state + "[keys]\ntrust = ['']\n", "keys.trust[0]: "},
		{state + "[objects]\n" + bucket + "credentials_file = '" + dir + "/gone'\n", "objects.credentials_file: read credentials: open "},
		{state + "[objects]\n" + bucket + "credentials_file = '" + dir + "/one-word'\n", "objects.credentials_file: " + dir + "/one-word: want the access key and the secret key, on two lines"},
		{state + "[objects]\n" + bucket + "access_key_file = '" + dir + "/one-word'\nsecret_key_file = '" + dir + "/gone'\n", "objects.secret_key_file: read credentials"},
		{state + "[objects]\n" + bucket, "objects.credentials_file: want a file with"},
		{state + "[tls]\ncertificate_file = '" + dir + "/text'\nkey_file = '" + dir + "/gone'\n", "tls.certificate_file: load "},
	} {
		t.Run(c.says, func(t *testing.T) {
			t.Setenv("AWS_ACCESS_KEY_ID", "")
			t.Setenv("AWS_SECRET_ACCESS_KEY", "")
			file := spit(t, filepath.Join(t.TempDir(), "narfold.toml"), []byte(c.config))
			stdout, stderr, code := narfold(t, nil, "herder", "run", "--config", file, "--listen", "127.0.0.1:0")
			if code != exitUsage || len(stdout) > 0 {
				t.Errorf("exit code %d, answered %q", code, stdout)
			}
			said, ok := strings.CutPrefix(lastLine(strings.TrimSpace(stderr)), "narfold: configuration "+file+": ")
			if !ok || !strings.HasPrefix(said, c.says) && !strings.HasPrefix(place.ReplaceAllString(said, ""), c.says) {
				t.Errorf("of\n%s\nit said\n%s\nwant %q", c.config, stderr, c.says)
			}
			if strings.Contains(stderr, "deployment.") || strings.Contains(stderr, " toml: ") {
				t.Errorf("it speaks of the inside of the program: %s", stderr)
			}
		})
	}
}

// place is what a message begins with that knows where in the file the mistake is.
var place = regexp.MustCompile(`^line \d+, column \d+: `)

func lastLine(s string) string { return s[strings.LastIndexByte(s, '\n')+1:] }

func TestADeploymentIsNamed(t *testing.T) {
	for name, c := range map[string]struct {
		args []string
		says string
	}{
		"by nothing":                    {[]string{"herder", "run"}, "want --state or --config"},
		"by a file that is not there":   {[]string{"token", "list", "--config", "/nonexistent/narfold.toml"}, "configuration /nonexistent/narfold.toml: read: open"},
		"with a bad listening address":  {[]string{"herder", "run", "--state", t.TempDir(), "--listen", "80"}, `listen[0]: "80": want host:port`},
		"with a debugging address open": {[]string{"herder", "run", "--state", t.TempDir(), "--debug-listen", ":6060"}, `debug_listen: ":6060": want a loopback address`},
	} {
		t.Run(name, func(t *testing.T) {
			if _, stderr, code := narfold(t, nil, c.args...); code != exitUsage || !strings.Contains(stderr, c.says) {
				t.Errorf("exit code %d, said %q", code, stderr)
			}
		})
	}
}

func TestStateOnTheCommandLineComesFirst(t *testing.T) {
	file := spit(t, filepath.Join(t.TempDir(), "narfold.toml"), []byte("state = '/one'\n[serve]\nttl = '30d'\nprefer = 'lzip'\n[publish]\nreserve = '512 MiB'\n"))
	got, err := deploymentFlags{State: "/two", Config: file}.load()
	want := deployment.Defaults("/two")
	want.Serve.TTL, want.Serve.Prefer, want.Publish.Reserve = deployment.Duration(30*24*time.Hour), compress.Lzip, 512<<20
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("%+v, %v; want %+v", got, err, want)
	}
	dir, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	if got, err := (deploymentFlags{State: "x"}).load(); err != nil || !reflect.DeepEqual(got, deployment.Defaults(filepath.Join(dir, "x"))) {
		t.Errorf("%+v, %v", got, err)
	}
}

const example = "../../docs/narfold.toml"

// shown is a key of the example that shows its default.
var shown = regexp.MustCompile(`(?m)^#([a-z_]+ = )`)

func TestTheExampleConfigurationIsTheDefaults(t *testing.T) {
	text := slurp(t, example)
	for name, text := range map[string][]byte{"as it is": text, "uncommented": shown.ReplaceAll(text, []byte("$1"))} {
		t.Run(name, func(t *testing.T) {
			var got deployment.Config
			if name == "as it is" {
				got = deployment.Defaults("")
			}
			if err := readConfig(spit(t, filepath.Join(t.TempDir(), "narfold.toml"), text), &got); err != nil {
				t.Fatal(err)
			}
			if err := got.Validate(); err != nil {
				t.Error(err)
			}
			for _, empty := range []*[]string{&got.Keys.Sign, &got.Keys.Trust} {
				if len(*empty) == 0 {
					*empty = nil
				}
			}
			if len(got.Publish.Compressions) == 0 {
				got.Publish.Compressions = nil
			}
			if want := deployment.Defaults("/var/lib/narfold"); !reflect.DeepEqual(got, want) {
				t.Errorf("got  %+v\nwant %+v", got, want)
			}
		})
	}
}

func TestTheExampleConfigurationHasEveryKey(t *testing.T) {
	var have []string
	table := ""
	for line := range strings.Lines(string(slurp(t, example))) {
		if name, ok := strings.CutPrefix(strings.TrimPrefix(line, "#["), "["); ok {
			table = strings.TrimRight(strings.TrimSpace(name), "]") + "."
		} else if m := regexp.MustCompile(`^#?(?:  )?([a-z_]+) = `).FindStringSubmatch(line); m != nil {
			have = append(have, table+m[1])
		}
	}
	want := configKeys("", reflect.TypeFor[deployment.Config]())
	slices.Sort(have)
	slices.Sort(want)
	if !slices.Equal(have, want) {
		t.Errorf("the example has\n%s\nthe configuration\n%s", strings.Join(have, "\n"), strings.Join(want, "\n"))
	}
}

// configKeys returns the keys of a table and of those within, as the struct's tags name them.
func configKeys(prefix string, table reflect.Type) (keys []string) {
	for f := range table.Fields() {
		key := prefix + f.Tag.Get("toml")
		if f.Type.Kind() == reflect.Struct {
			keys = append(keys, configKeys(key+".", f.Type)...)
		} else if f.Type.Kind() == reflect.Slice && f.Type.Elem().Kind() == reflect.Struct {
			keys = append(keys, configKeys(key+".", f.Type.Elem())...)
		} else {
			keys = append(keys, key)
		}
	}
	return keys
}

func FuzzConfig(f *testing.F) {
	text, err := os.ReadFile(example)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(text)
	f.Add(shown.ReplaceAll(text, []byte("$1")))
	f.Add([]byte("state = '/a'\n[serve]\nttl = 3\n[[objects]]\nx.y = {a = 1}\n"))
	f.Fuzz(func(t *testing.T, text []byte) {
		cfg := deployment.Defaults("")
		if err := decodeConfig(text, &cfg); err != nil {
			if said := (&configError{"narfold.toml", err}).Error(); strings.Contains(said, "deployment.") || strings.Contains(said, "\n") {
				t.Errorf("said %q", said)
			}
			return
		}
		if err := cfg.Validate(); err != nil && !errors.Is(err, errConfig) {
			t.Errorf("%v is no mistake in a configuration", err)
		}
	})
}
