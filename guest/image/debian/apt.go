package debian

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/containerd/errdefs"
)

// Options says where and from what to fetch.
type Options struct {
	// Dir is the private directory; one suite has one folder in it.
	Dir string
	// Suite is a suite's name ("unstable"); empty: the machine's own sources as
	// they stand.
	Suite string
	// Etc is apt's configuration directory, whose sources lead to the suite;
	// empty: /etc/apt.
	Etc string
	// Architecture of the packages ("amd64").
	Architecture string
	// Progress gets a line per step; nil: none.
	Progress io.Writer
}

// Apt asks and fetches through apt in a private directory.
type Apt struct {
	options   Options
	dir       string // absolute folder of the suite
	refreshed bool   // lists were fetched by this process
}

// Open prepares the private directory. It does not touch the network.
func Open(o Options) (*Apt, error) {
	if _, err := exec.LookPath("apt-get"); err != nil {
		return nil, fmt.Errorf("fetch Debian packages: no apt-get on this machine: %w", errdefs.ErrUnavailable)
	}
	if o.Progress == nil {
		o.Progress = io.Discard
	}
	if o.Etc == "" {
		o.Etc = "/etc/apt"
	}
	name := o.Suite
	if name == "" {
		name = "own"
	} else if !isName(name) {
		return nil, fmt.Errorf("suite %q is no name: %w", name, errdefs.ErrInvalidArgument)
	}
	dir, err := filepath.Abs(filepath.Join(o.Dir, name))
	if err != nil {
		return nil, err
	}
	a := &Apt{options: o, dir: dir}
	for _, d := range []string{"lists/partial", "archives/partial"} {
		if err = os.MkdirAll(filepath.Join(dir, d), 0o755); err != nil {
			return nil, fmt.Errorf("prepare apt directory: %w", err)
		}
	}
	if err = os.WriteFile(a.path("status"), nil, 0o644); err != nil {
		return nil, fmt.Errorf("prepare apt directory: %w", err)
	}
	if o.Suite == "" {
		return a, nil
	}
	sources, err := ReadSources(os.DirFS(o.Etc))
	if err != nil {
		return nil, err
	}
	if sources = InSuite(sources, o.Suite); len(sources) == 0 {
		return nil, fmt.Errorf("no apt source of this machine leads to suite %s: %w", o.Suite, errdefs.ErrNotFound)
	}
	if err := writeSources(a.path("sources", "other.sources"), sources); err != nil {
		return nil, fmt.Errorf("write apt sources of suite %s: %w", o.Suite, err)
	}
	return a, nil
}

func (a *Apt) path(elem ...string) string {
	return filepath.Join(append([]string{a.dir}, elem...)...)
}

// settings are the options that make apt work privately.
func (a *Apt) settings() []string {
	set := []string{
		"Dir::State::Lists=" + a.path("lists"),
		"Dir::State::status=" + a.path("status"),
		"Dir::State::extended_states=" + a.path("extended_states"),
		"Dir::Cache=" + a.dir,
		"Dir::Cache::archives=" + a.path("archives"),
		// Containers' apt configurations empty these two, which makes every
		// question parse all lists again.
		"Dir::Cache::pkgcache=" + a.path("pkgcache.bin"),
		"Dir::Cache::srcpkgcache=" + a.path("srcpkgcache.bin"),
		"APT::Architecture=" + a.options.Architecture,
		"APT::Architectures=" + a.options.Architecture,
		"APT::Sandbox::User=root", // the directory belongs to the caller, not to _apt
		"APT::Default-Release=",
		// Hooks of the machine (they empty caches, tell desktops) are not for us.
		"APT::Update::Post-Invoke=", "APT::Update::Post-Invoke-Success=",
		"Acquire::Languages=none",
		"Acquire::IndexTargets::deb::DEP-11::DefaultEnabled=false",
		"Acquire::Retries=3",
	}
	if a.options.Suite != "" {
		set = append(set,
			"Dir::Etc::SourceList=/dev/null",
			"Dir::Etc::SourceParts="+a.path("sources"),
			"Dir::Etc::Preferences=/dev/null", // pins are meant for the machine's own suite
			"Dir::Etc::PreferencesParts=/dev/null",
		)
	}
	var args []string
	for _, s := range set {
		args = append(args, "-o", s)
	}
	return args
}

// run executes one of apt's programs and returns what it printed. The error
// carries what apt said.
func (a *Apt) run(ctx context.Context, limit time.Duration, dir, program string, args ...string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	cmd := exec.CommandContext(ctx, program, append(a.settings(), args...)...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "LC_ALL=C", "DEBIAN_FRONTEND=noninteractive")
	var out, said bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &said
	if err := cmd.Run(); err != nil {
		return nil, fmt.Errorf("%s %s: %w: %s", program, strings.Join(args, " "), errors.Join(err, ctx.Err()), complaint(said.String()))
	}
	return out.Bytes(), nil
}

// complaint folds apt's errors into one line.
func complaint(said string) string {
	var lines []string
	for line := range strings.Lines(said) {
		if line = strings.TrimSpace(line); line != "" {
			lines = append(lines, line)
		}
	}
	return strings.Join(lines, "; ")
}

// update fetches the package lists.
func (a *Apt) update(ctx context.Context) error {
	what := "the machine's suites"
	if a.options.Suite != "" {
		what = "suite " + a.options.Suite
	}
	fmt.Fprintf(a.options.Progress, "fetching the package lists of %s\n", what)
	_, err := a.run(ctx, updateTimeout, a.dir, "apt-get", "-q", "update")
	a.refreshed = true
	if err != nil {
		return fmt.Errorf("fetch the package lists of %s: %w", what, err)
	}
	return nil
}

// haveLists says whether package lists were fetched before.
func (a *Apt) haveLists() bool {
	lists, _ := filepath.Glob(a.path("lists", "*_Packages*"))
	return len(lists) > 0
}

// Retry runs fetch, and once more with fresh package lists if it failed with
// old ones: an archive keeps only the current version of a package.
func (a *Apt) Retry(ctx context.Context, fetch func() error) error {
	err := fetch()
	if err == nil || a.refreshed || ctx.Err() != nil {
		return err
	}
	fmt.Fprintf(a.options.Progress, "trying again with fresh package lists: %v\n", err)
	if uerr := a.update(ctx); uerr != nil {
		return errors.Join(err, uerr)
	}
	return fetch()
}
