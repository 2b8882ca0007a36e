package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/BurntSushi/toml"
)

// TestExampleHasTheDefaults: all of them, and no others.
func TestExampleHasTheDefaults(t *testing.T) {
	const example = "../../packaging/tardev-snapshotter.toml"
	o, err := parse([]string{"--config", example})
	if err != nil {
		t.Fatal(err)
	}
	o.config = ""
	if o != defaults() {
		t.Errorf("the example says %+v\nthe defaults are %+v", o, defaults())
	}
	var keys map[string]any
	if _, err := toml.DecodeFile(example, &keys); err != nil {
		t.Fatal(err)
	}
	var all strings.Builder
	if err := toml.NewEncoder(&all).Encode(defaults()); err != nil {
		t.Fatal(err)
	}
	if n := strings.Count(all.String(), "\n"); n != len(keys) {
		t.Errorf("the example has %d keys of\n%s", len(keys), all.String())
	}
}

func TestParse(t *testing.T) {
	config := func(text string) string {
		path := filepath.Join(t.TempDir(), "config.toml")
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	const text = "root = '/a'\naddress = '/b'\nlog_format = 'json'\nstop_timeout = '1m'\n"
	want := defaults()
	for name, test := range map[string]struct {
		args []string
		want func(o *options)
		err  string // "" if there is none
	}{
		"nothing": {nil, func(*options) {}, ""},
		"arguments": {[]string{"/r", "/s", "/c"}, func(o *options) {
			o.Root, o.Address, o.Containerd = "/r", "/s", "/c"
		}, ""},
		"flags": {[]string{"--root=/r", "--metrics-address", "127.0.0.1:0", "--stop-timeout=2s"}, func(o *options) {
			o.Root, o.Metrics, o.StopTimeout = "/r", "127.0.0.1:0", duration(2*time.Second)
		}, ""},
		"bounds": {[]string{"--max-layer-size=2GiB", "--config", config("max_layer_size = '0'\nmin_free = '1MiB'\n")}, func(o *options) {
			o.MaxLayer, o.MinFree = 2<<30, share{bytes: 1 << 20}
		}, ""},
		"file": {[]string{"--config", config(text)}, func(o *options) {
			o.Root, o.Address, o.LogFormat, o.StopTimeout = "/a", "/b", "json", duration(time.Minute)
		}, ""},
		"flags over the file": {[]string{"--log-format=text", "--config", config(text), "--stop-timeout=3s"}, func(o *options) {
			o.Root, o.Address, o.StopTimeout = "/a", "/b", duration(3*time.Second)
		}, ""},
		"arguments over the file": {[]string{"--config", config(text), "/r"}, func(o *options) {
			o.Root, o.Address, o.LogFormat, o.StopTimeout = "/r", "/b", "json", duration(time.Minute)
		}, ""},
		"unknown key":    {[]string{"--config", config("rooot = '/a'\n[more]\nx = 1\n")}, nil, "unknown key rooot"},
		"wrong type":     {[]string{"--config", config("root = 1\n")}, nil, "root"},
		"wrong duration": {[]string{"--config", config("stop_timeout = 'soon'\n")}, nil, "soon"},
		"wrong size":     {[]string{"--config", config("max_layer_size = '64GB'\n")}, nil, "64GB"},
		"wrong share":    {[]string{"--min-free=100%"}, nil, "100%"},
		"negative":       {[]string{"--stop-timeout=-1s"}, nil, "negative"},
		"no TOML":        {[]string{"--config", config("{")}, nil, "config.toml"},
		"no file":        {[]string{"--config", "/none/config.toml"}, nil, "/none/config.toml"},
		"unknown format": {[]string{"--log-format=xml"}, nil, `"xml"`},
		"empty root":     {[]string{"--root="}, nil, "root is empty"},
		"too many":       {[]string{"a", "b", "c", "d"}, nil, "4 arguments"},
		"unknown flag":   {[]string{"--rooot"}, nil, "rooot"},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := parse(test.args)
			if test.err != "" {
				if err == nil || !strings.Contains(err.Error(), test.err) {
					t.Errorf("error %v, want one that says %q", err, test.err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			want := want
			test.want(&want)
			got.config = ""
			if got != want {
				t.Errorf("got %+v\nwant %+v", got, want)
			}
		})
	}
}
