package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/BurntSushi/toml"
	"github.com/containerd/log"
)

const defaultRoot = "/var/lib/containerd/io.containerd.snapshotter.v1.tardev"

// options are what the configuration file and, before it, the command line choose.
type options struct {
	Root        string   `toml:"root"`
	Address     string   `toml:"address"`
	Containerd  string   `toml:"containerd_address"`
	Metrics     string   `toml:"metrics_address"` // "" for none
	LogLevel    string   `toml:"log_level"`
	LogFormat   string   `toml:"log_format"`
	StopTimeout duration `toml:"stop_timeout"`
	MaxLayer    size     `toml:"max_layer_size"`
	MinFree     share    `toml:"min_free"`

	config string
}

// duration is a time.Duration that reads as text.
type duration time.Duration

func (d *duration) UnmarshalText(text []byte) error {
	v, err := time.ParseDuration(string(text))
	if err == nil && v < 0 {
		err = fmt.Errorf("duration %s is negative", v)
	}
	*d = duration(v)
	return err
}

func (d duration) MarshalText() ([]byte, error) { return []byte(time.Duration(d).String()), nil }

func defaults() options {
	return options{
		Root:        defaultRoot,
		Address:     "/run/containerd/tardev-snapshotter.sock",
		Containerd:  "/run/containerd/containerd.sock",
		LogLevel:    "info",
		LogFormat:   string(log.TextFormat),
		StopTimeout: duration(stopTimeout),
		MaxLayer:    maxLayerSize,
		MinFree:     share{percent: minFreePercent},
	}
}

// parse reads the command line and the configuration file that it names. What the
// command line says wins.
func parse(args []string) (options, error) {
	var o options
	f := o.flags(defaults())
	if err := f.Parse(args); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			usage(f)
		}
		return options{}, err
	}
	base := defaults()
	if o.config != "" {
		if err := base.load(o.config); err != nil {
			return options{}, err
		}
		f = o.flags(base)
		if err := f.Parse(args); err != nil {
			return options{}, err
		}
	}
	for i, to := range []*string{&o.Root, &o.Address, &o.Containerd} {
		if f.Arg(i) != "" {
			*to = f.Arg(i)
		}
	}
	if f.NArg() > 3 {
		return options{}, fmt.Errorf("%d arguments, 3 at most", f.NArg())
	}
	return o, o.check()
}

// flags returns a flag set that fills o, with the defaults of base.
func (o *options) flags(base options) *flag.FlagSet {
	f := flag.NewFlagSet("tardev-snapshotter", flag.ContinueOnError)
	f.StringVar(&o.config, "config", "", "TOML `file` whose values the other flags override")
	f.StringVar(&o.Root, "root", base.Root, "`directory` of metadata and layer files")
	f.StringVar(&o.Address, "address", base.Address, "unix `socket` to serve")
	f.StringVar(&o.Containerd, "containerd-address", base.Containerd, "`socket` of the containerd whose content store holds the layers")
	f.StringVar(&o.Metrics, "metrics-address", base.Metrics, "`address` of Prometheus metrics, a host:port or a path of a unix socket; none if empty")
	f.StringVar(&o.LogLevel, "log-level", base.LogLevel, "least `level` of what is logged: trace, debug, info, warn or error")
	f.StringVar(&o.LogFormat, "log-format", base.LogFormat, "`format` of the log: text or json")
	o.StopTimeout = base.StopTimeout
	f.TextVar(&o.StopTimeout, "stop-timeout", base.StopTimeout, "how `long` requests may go on after a signal to stop")
	o.MaxLayer, o.MinFree = base.MaxLayer, base.MinFree
	f.TextVar(&o.MaxLayer, "max-layer-size", base.MaxLayer, "`size` that a layer may unpack to, such as 64GiB; 0 for any")
	f.TextVar(&o.MinFree, "min-free", base.MinFree, "`size`, or percentage, of the file system below root that layers leave free")
	f.SetOutput(io.Discard) // errors are returned
	return f
}

func usage(f *flag.FlagSet) {
	f.SetOutput(os.Stdout)
	fmt.Println("usage: tardev-snapshotter [flags] [root [socket [containerd-socket]]]\n       tardev-snapshotter fsck [--repair] [--root directory]")
	f.PrintDefaults()
}

// load reads a configuration file over o.
func (o *options) load(path string) error {
	file, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("configuration: %w", err)
	}
	defer file.Close()
	md, err := toml.NewDecoder(file).Decode(o)
	if err != nil {
		return fmt.Errorf("configuration %s: %w", path, err)
	}
	var errs []error
	for _, key := range md.Undecoded() {
		errs = append(errs, fmt.Errorf("configuration %s: unknown key %s", path, key))
	}
	return errors.Join(errs...)
}

// check refuses values that could only fail later.
func (o *options) check() error {
	for name, value := range map[string]string{"root": o.Root, "address": o.Address, "containerd address": o.Containerd} {
		if value == "" {
			return fmt.Errorf("%s is empty", name)
		}
	}
	if f := log.OutputFormat(o.LogFormat); f != log.TextFormat && f != log.JSONFormat {
		return fmt.Errorf("log format %q is neither %s nor %s", o.LogFormat, log.TextFormat, log.JSONFormat)
	}
	return nil
}
