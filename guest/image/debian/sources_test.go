package debian

import (
	"reflect"
	"slices"
	"strings"
	"testing"
	"testing/fstest"
)

const bookwormSources = `Types: deb deb-src
# a comment
URIs: http://archive.example/debian
Suites: bookworm bookworm-updates
Components: main contrib
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg

Types: deb
URIs: http://archive.example/debian-security
Suites: bookworm-security
Components: main

Enabled: no
Types: deb
URIs: http://other.example/
Suites: stable
Components: main

Types: deb
URIs: http://vendor.example/apt
Suites: nodistro
Components: stable
`

const bookwormList = `# one-line form
deb [arch=amd64,arm64 signed-by=/usr/share/keyrings/debian.gpg] http://archive.example/debian bookworm main contrib # trailing
deb-src http://archive.example/debian bookworm main
deb http://archive.example/debian-security bookworm-security main
deb http://vendor.example/flat ./
deb [ trusted=yes arch+=i386 ] http://mirror.example/debian/ stable main
`

func read(t *testing.T, files map[string]string) []Source {
	t.Helper()
	fsys := fstest.MapFS{}
	for name, text := range files {
		fsys[name] = &fstest.MapFile{Data: []byte(text)}
	}
	sources, err := ReadSources(fsys)
	if err != nil {
		t.Fatal(err)
	}
	return sources
}

func write(sources []Source) string {
	var b strings.Builder
	for _, s := range sources {
		b.WriteString(s.Paragraph().String() + "\n")
	}
	return b.String()
}

func TestInSuite(t *testing.T) {
	for _, test := range []struct {
		name, want string
		files      map[string]string
	}{
		{
			name:  "deb822",
			files: map[string]string{"sources.list.d/debian.sources": bookwormSources},
			want: `Types: deb
URIs: http://archive.example/debian
Suites: unstable
Components: main
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg

`,
		},
		{
			name:  "one-line",
			files: map[string]string{"sources.list": bookwormList},
			want: `Types: deb
URIs: http://archive.example/debian
Suites: unstable
Components: main
Architectures: amd64 arm64
Signed-By: /usr/share/keyrings/debian.gpg

Types: deb
URIs: http://mirror.example/debian/
Suites: unstable
Components: main
Trusted: yes
Architectures-Add: i386

`,
		},
		{
			name: "files that apt does not read",
			files: map[string]string{
				"sources.list.d/old.list.save":        bookwormList,
				"sources.list.d/old.sources.disabled": bookwormSources,
			},
		},
		{
			name: "the same archive twice is one source",
			files: map[string]string{
				"sources.list.d/a.sources": bookwormSources,
				"sources.list.d/b.list":    "deb http://archive.example/debian trixie main\n",
			},
			want: `Types: deb
URIs: http://archive.example/debian
Suites: unstable
Components: main
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg

`,
		},
		{
			name: "an embedded key stays as it stands",
			files: map[string]string{"sources.list.d/k.sources": "Types: deb\nURIs: http://a.example/\nSuites: sid\n" +
				"Components: main\nSigned-By:\n -----BEGIN PGP PUBLIC KEY BLOCK-----\n .\n mQINBF\n"},
			want: "Types: deb\nURIs: http://a.example/\nSuites: unstable\nComponents: main\n" +
				"Signed-By:\n -----BEGIN PGP PUBLIC KEY BLOCK-----\n .\n mQINBF\n\n",
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			if got := write(InSuite(read(t, test.files), "unstable")); got != test.want {
				t.Errorf("got\n%s\nwant\n%s", got, test.want)
			}
		})
	}
}

func TestReadSourcesRefuses(t *testing.T) {
	for _, test := range []struct{ file, text, want string }{
		{"sources.list", "deb http://a.example\n", "line 1"},
		{"sources.list", "\ndeb [arch=amd64 http://a.example sid main\n", "line 2: option list is not closed"},
		{"sources.list", "deb [colour=blue] http://a.example sid main\n", `option "colour=blue" is unknown`},
		{"sources.list.d/x.sources", "Types: deb\nSuites: sid\n", "sources.list.d/x.sources: entry 1 lacks"},
	} {
		_, err := ReadSources(fstest.MapFS{test.file: {Data: []byte(test.text)}})
		if err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s with %q: %v, want an error with %q", test.file, test.text, err, test.want)
		}
	}
}

// checkInSuite holds for whatever apt sources say: what is written leads to the
// suite asked for and to no other, and reads back as what was written.
func checkInSuite(t *testing.T, sources []Source) {
	out := InSuite(sources, "unstable")
	for _, s := range out {
		if !slices.Equal(s.Suites, []string{"unstable"}) || !slices.Equal(s.Types, []string{"deb"}) {
			t.Errorf("leads elsewhere: %+v", s)
		}
	}
	again, err := ParseSources(strings.NewReader(write(out)))
	if err != nil || len(again) != len(out) {
		t.Fatalf("what was written cannot be read: %v\n%s", err, write(out))
	}
	for i := range out {
		if !reflect.DeepEqual(out[i].URIs, again[i].URIs) {
			t.Errorf("reads as %+v, was %+v", again[i], out[i])
		}
	}
}

func FuzzParseSources(f *testing.F) {
	f.Add(bookwormSources)
	f.Fuzz(func(t *testing.T, text string) {
		if sources, err := ParseSources(strings.NewReader(text)); err == nil {
			checkInSuite(t, sources)
		}
	})
}

func FuzzParseList(f *testing.F) {
	f.Add(bookwormList)
	f.Fuzz(func(t *testing.T, text string) {
		if sources, err := ParseList(strings.NewReader(text)); err == nil {
			checkInSuite(t, sources)
		}
	})
}
