package main

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/kata-cc/kata-cc/test/cluster"
)

func (s *story) guest(ctx context.Context) error {
	s.step("Inside the guest", "A root shell by `kata-runtime exec %.13s…`: its own kernel, and a device-mapper device for the root and for each layer.", s.sandbox)
	guest := func(line string) (string, error) { return s.inside(ctx, s.sandbox, line) }
	if _, err := guest("uname -a"); err != nil {
		return err
	}
	out, err := guest("dmsetup ls")
	if err != nil {
		return err
	}
	s.must(strings.Contains(out, "dm-verity\t"), "the root of the guest is the dm-verity device dm-verity")
	var top string
	for file, snap := range s.snapshot {
		s.must(strings.Contains(out, file), "dm-verity device %.13s…", file)
		if snap.Labels[rootHashLabel] == cluster.ExampleLayer2RootHash {
			top = file
		}
	}
	if out, err = guest("dmsetup measure " + top); err != nil {
		return err
	}
	if !strings.Contains(out, "root_digest=") { // a kernel without IMA measures nothing; the table has the same hash
		if out, err = guest("dmsetup table " + top); err != nil {
			return err
		}
	}
	s.must(strings.Contains(out, cluster.ExampleLayer2RootHash), "the kernel checks it against %s", cluster.ExampleLayer2RootHash)
	if out, err = guest("mount | grep -F sandbox/layers"); err != nil {
		return err
	}
	for file := range s.snapshot {
		s.must(strings.Contains(out, "/run/kata-containers/sandbox/layers/"+file+" type "), "layer %.13s… is mounted", file)
	}
	if out, err = guest("mount | grep rootfs"); err != nil {
		return err
	}
	for _, id := range []string{s.sandbox, s.example} {
		s.must(strings.Contains(out, "/run/kata-containers/"+id+"/rootfs type overlay"), "the root of %.13s… is an overlay", id)
	}
	if out, err = guest("ls -l /run/kata-containers/" + s.example + "/rootfs"); err != nil {
		return err
	}
	for _, name := range []string{"LAYER_1", "LAYER_2", "bin"} {
		s.must(slices.Contains(strings.Fields(out), name), "the container's root has %s", name)
	}
	return nil
}

func (s *story) container(ctx context.Context) (err error) {
	s.step("The container", "What kubectl does arrives in the guest.")
	out, err := s.show(ctx, fmt.Sprintf("crictl exec %.13s /bin/busybox ls /", s.example))
	if err != nil {
		return err
	}
	s.must(strings.Contains(out, "LAYER_1") && strings.Contains(out, "LAYER_2"), "exec sees both layers")
	out = s.showFailing(ctx, fmt.Sprintf("crictl exec %.13s /bin/busybox sh -c 'exit 7'", s.example))
	s.must(strings.Contains(out, "exit code 7"), "an exec ends with its own exit status")

	s.say("A second container in the pod, on the same layers, which are not plugged again:")
	hello := cluster.Container{Name: "hello", Command: []string{"/bin/busybox", "sh", "-c"},
		Args: []string{`/bin/busybox echo "hello from $(/bin/busybox uname -sr)"; exec /bin/busybox httpd -f -p 8080 -h /`}}
	s.hello, err = s.cluster.RunContainer(ctx, s.sandbox, cluster.Pod{Name: "example"}, hello)
	if err != nil {
		return err
	}
	line := fmt.Sprintf("crictl logs %.13s", s.hello)
	if err = s.await(ctx, line, "hello from Linux"); err != nil {
		return err
	}
	if out, err = s.show(ctx, line); err != nil {
		return err
	}
	s.must(strings.Contains(out, "hello from Linux"), "its output is in the log")
	disks, err := s.cluster.VMInfo(ctx, s.sandbox, ".config.disks | length")
	if err != nil {
		return err
	}
	s.must(strings.TrimSpace(disks) == fmt.Sprint(1+len(s.snapshot)), "the machine still has %d disks", 1+len(s.snapshot))
	out, err = s.show(ctx, "crictl stats")
	s.must(strings.Contains(out, s.example[:13]) && strings.Contains(out, s.hello[:13]), "stats of both containers")
	return err
}

// await runs a line until its output has a text, or some seconds are over.
func (s *story) await(ctx context.Context, line, text string) error {
	for range 50 {
		out, err := s.cluster.Shell(ctx, line)
		if err != nil || strings.Contains(out, text) {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(200 * time.Millisecond):
		}
	}
	return nil
}

func (s *story) network(ctx context.Context) error {
	ip, err := s.cluster.PodIP(ctx, s.sandbox)
	if err != nil {
		return err
	}
	s.step("The network", "The pod's address %s is the guest's; the host is reached and reaches.", ip)
	out, err := s.show(ctx, "curl -s --max-time 20 http://"+ip+":8080/LAYER_1 -o /dev/null -w '%{http_code}\\n'")
	if err != nil {
		return err
	}
	s.must(strings.TrimSpace(out) == "200", "the host fetches a file from the pod")

	l, err := net.Listen("tcp", net.JoinHostPort(s.cluster.Gateway(), "0"))
	if err != nil {
		return err
	}
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, "hello from the host\n")
	})}
	go server.Serve(l) // ends with Close
	defer server.Close()
	out, err = s.show(ctx, fmt.Sprintf("crictl exec %.13s /bin/busybox wget -q -O - http://%s/", s.example, l.Addr()))
	s.must(strings.Contains(out, "hello from the host"), "the pod fetches a page from the host")
	return err
}

func (s *story) keep(ctx context.Context) {
	s.step("Look around", "Everything runs until Ctrl-C. In another shell:")
	s.say(`
  . %[1]s
  crictl ps
  crictl exec -it %.13[3]s /bin/busybox sh
  kata-runtime exec %[2]s
  %[4]s
  ls -l %[5]s
  tail -f %[6]s`, s.cluster.EnvFile(), s.sandbox, s.example,
		cluster.VMInfoCommand(s.sandbox, "."), cluster.VMDir(s.sandbox), filepath.Join(s.cluster.Dir, "log/containerd.log"))
	<-ctx.Done()
	fmt.Fprintln(os.Stderr)
}

func (s *story) removal(ctx context.Context) error {
	during, err := s.cluster.Census()
	if err != nil {
		return err
	}
	s.step("Removal", "Everything that the pod held on the host goes away with it.")
	for _, line := range []string{"crictl stopp " + s.sandbox, "crictl rmp " + s.sandbox} {
		if _, err = s.show(ctx, line); err != nil {
			return err
		}
	}
	left, err := s.cluster.AwaitGone(ctx, s.baseline)
	if err != nil {
		return err
	}
	if err := s.volumes.Remove(ctx); err != nil {
		return err
	}
	s.say("%-20s %8s %8s %8s", "", "before", "running", "left")
	for _, kind := range cluster.Kinds {
		s.say("%-20s %8d %8d %8d", kind, len(s.baseline[kind]), len(during[kind]), len(left[kind]))
	}
	s.must(len(left) == 0, "nothing of the pod is left")
	if len(left) > 0 {
		s.say("%s", left)
	}
	return nil
}
