package main

import (
	"encoding/base64"
	"slices"
	"strings"
	"testing"
)

const (
	nameA = "2ead9678c1b2b8595710d3470068107cb66cf94006c8ea926da38860d26ac6bc"
	nameB = "20fa1959f77bb8fd725123f59d63373051c833e1d3f3e3ac51be0169c71f9b9c"
	hash  = "3e180656327e86fa7aa220ff278695f1df2a2679e1aa80e8a454ccf0460c7d39"
)

func option(text string) string {
	return optionPrefix + "layer=" + base64.StdEncoding.EncodeToString([]byte(text))
}

func layerText(name string) string {
	return name + ",tar,ro," + optionPrefix + "block_device=file," + optionPrefix + "is-layer," + optionPrefix + "root-hash=" + hash
}

// good is what mount.fuse3 hands on of the snapshotter's options.
func good() []string {
	return []string{
		optionPrefix + "layer-src-prefix=/var/lib/tardev/layers",
		option(layerText(nameA)), option(layerText(nameB)),
		optionPrefix + "overlay-rw", "lowerdir=" + nameA + ":" + nameB, "ro", "dev", "suid",
	}
}

func TestParseOptions(t *testing.T) {
	o, err := parseOptions(strings.Join(good(), ","))
	want := []layer{{nameA, hash}, {nameB, hash}}
	if err != nil || o.dir != "/var/lib/tardev/layers" || !slices.Equal(o.layers, want) {
		t.Errorf("%+v, error %v", o, err)
	}
}

func TestParseOptionsRefuses(t *testing.T) {
	for name, edit := range map[string]func(o []string) []string{
		"nothing":         func([]string) []string { return nil },
		"no directory":    func(o []string) []string { return o[1:] },
		"relative":        func(o []string) []string { o[0] = optionPrefix + "layer-src-prefix=layers"; return o },
		"not clean":       func(o []string) []string { o[0] += "/../x"; return o },
		"no layers":       func(o []string) []string { return append(o[:1], "lowerdir=") },
		"no base64":       func(o []string) []string { o[1] = optionPrefix + "layer=$$$"; return o },
		"path for a name": func(o []string) []string { o[1] = option("../" + layerText(nameA)); return o },
		"upper case":      func(o []string) []string { o[1] = option(layerText(strings.ToUpper(nameA))); return o },
		"other type":      func(o []string) []string { o[1] = option(nameA + ",ext4,ro"); return o },
		"no root hash":    func(o []string) []string { o[1] = option(nameA + ",tar,ro"); return o },
		"short root hash": func(o []string) []string { o[1] = option(layerText(nameA)[:200]); return o },
		"two root hashes": func(o []string) []string {
			o[1] = option(layerText(nameA) + "," + optionPrefix + "root-hash=" + hash)
			return o
		},
		"other lowerdir":    func(o []string) []string { o[4] = "lowerdir=" + nameB + ":" + nameA; return o },
		"missing lowerdir":  func(o []string) []string { return slices.Delete(o, 4, 5) },
		"unknown of kata's": func(o []string) []string { return append(o, optionPrefix+"other") },
	} {
		t.Run(name, func(t *testing.T) {
			if o, err := parseOptions(strings.Join(edit(good()), ",")); err == nil {
				t.Errorf("accepted as %+v", o)
			}
		})
	}
}

// FuzzParseOptions: what is accepted stays in its directory and has root hashes.
func FuzzParseOptions(f *testing.F) {
	f.Add(strings.Join(good(), ","))
	f.Add(option(nameA + ",tar"))
	f.Fuzz(func(t *testing.T, text string) {
		o, err := parseOptions(text)
		if err != nil {
			return
		}
		for _, l := range o.layers {
			if len(l.name) != 64 || strings.ContainsAny(l.name, "/.") || len(l.rootHash) != 64 {
				t.Errorf("layer %+v", l)
			}
		}
		if !strings.HasPrefix(o.dir, "/") || strings.Contains(o.dir, "..") && strings.Contains(o.dir+"/", "/../") {
			t.Errorf("directory %q", o.dir)
		}
	})
}
