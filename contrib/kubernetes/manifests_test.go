// Package kubernetes holds the test of the manifests here and of the compose file in
// contrib/container: what they name is there in the program and in the image.
package kubernetes

import (
	"bytes"
	"errors"
	"io"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"
)

const (
	reference     = "../config/node.toml"
	containerfile = "../container/Containerfile"
	composeFile   = "../container/compose.yaml"
	manifests     = "shoal.yaml"
)

func read(t *testing.T, path string) []byte {
	t.Helper()
	raw, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

// checkFlags holds that a command line is one of `shoal node`, whose flags the reference
// lists, and that it listens where the ports are.
func checkFlags(t *testing.T, where string, args []string, ports []int) {
	t.Helper()
	if len(args) == 0 || args[0] != "node" {
		t.Fatalf("%s runs %q", where, args)
	}
	known := string(read(t, reference))
	var port string
	if m := regexp.MustCompile(`SHOAL_LISTEN_PORT=(\d+)`).FindSubmatch(read(t, containerfile)); m != nil {
		port = string(m[1])
	}
	listens := []string{port}
	seen := map[string]string{}
	for _, a := range args[1:] {
		name, value, ok := strings.Cut(strings.TrimPrefix(a, "--"), "=")
		if !ok || !strings.HasPrefix(a, "--") || !strings.Contains(known, "\n# --"+name+", SHOAL_") {
			t.Errorf("%s: %q is no flag of a node with its value", where, a)
		}
		seen[name] = value
		if name == "api" || name == "metrics" {
			host, p, _ := strings.Cut(value, ":")
			if host != "0.0.0.0" {
				t.Errorf("%s: nothing outside of the container reaches %s", where, a)
			}
			listens = append(listens, p)
		}
	}
	if seen["api-key-file"] == "" || seen["metrics"] == "" {
		t.Errorf("%s has no key or no metrics: %v", where, seen)
	}
	for _, p := range ports {
		if !slices.Contains(listens, strconv.Itoa(p)) {
			t.Errorf("%s: nothing listens on %d, only on %v", where, p, listens)
		}
	}
	for _, l := range listens {
		if n, _ := strconv.Atoi(l); !slices.Contains(ports, n) {
			t.Errorf("%s: %s is not among the ports %v", where, l, ports)
		}
	}
}

type mount struct {
	Name      string
	MountPath string `yaml:"mountPath"`
}

type probe struct {
	HTTPGet struct{ Path, Port string } `yaml:"httpGet"`
}

// object is what the test looks at of any manifest.
type object struct {
	APIVersion string `yaml:"apiVersion"`
	Kind       string
	Metadata   struct{ Name string }
	Spec       struct {
		ServiceName string `yaml:"serviceName"`
		Selector    map[string]any
		Ports       []struct {
			Name   string
			Target string `yaml:"targetPort"`
			Port   int
		}
		Template struct {
			Metadata struct{ Labels, Annotations map[string]string }
			Spec     struct {
				SecurityContext map[string]any `yaml:"securityContext"`
				Grace           int            `yaml:"terminationGracePeriodSeconds"`
				Volumes         []struct {
					Name   string
					Secret struct {
						SecretName string `yaml:"secretName"`
					}
				}
				Containers []struct {
					Image string
					Args  []string
					Ports []struct {
						Name          string
						ContainerPort int `yaml:"containerPort"`
					}
					Startup      probe   `yaml:"startupProbe"`
					Liveness     probe   `yaml:"livenessProbe"`
					Readiness    probe   `yaml:"readinessProbe"`
					VolumeMounts []mount `yaml:"volumeMounts"`
				}
			}
		}
		Claims []struct{ Metadata struct{ Name string } } `yaml:"volumeClaimTemplates"`
	}
}

func TestKubernetes(t *testing.T) {
	var all []object
	for d := yaml.NewDecoder(bytes.NewReader(read(t, manifests))); ; {
		var o object
		err := d.Decode(&o)
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, o)
	}
	if len(all) != 3 || all[0].Kind != "StatefulSet" || len(all[0].Spec.Template.Spec.Containers) != 1 {
		t.Fatalf("%d objects", len(all))
	}
	pod := all[0].Spec.Template
	c := pod.Spec.Containers[0]
	names, ports := map[string]int{}, []int{}
	for _, p := range c.Ports {
		names[p.Name] = p.ContainerPort
		ports = append(ports, p.ContainerPort)
	}
	checkFlags(t, manifests, c.Args, ports)
	if !strings.Contains(string(read(t, "README.md")), "-t "+c.Image+" ") {
		t.Errorf("README.md does not build %s", c.Image)
	}
	for name, p := range map[string]probe{"/healthz": c.Startup, "/healthz ": c.Liveness, "/readyz": c.Readiness} {
		if p.HTTPGet.Path != strings.TrimSpace(name) || p.HTTPGet.Port != "metrics" || names["metrics"] == 0 {
			t.Errorf("a probe asks %+v", p.HTTPGet)
		}
	}
	if pod.Metadata.Annotations["prometheus.io/port"] != strconv.Itoa(names["metrics"]) {
		t.Errorf("Prometheus is told %v", pod.Metadata.Annotations)
	}
	if user := string(read(t, containerfile)); !strings.Contains(user, "USER "+strconv.Itoa(pod.Spec.SecurityContext["runAsUser"].(int))+":") {
		t.Error("the pod's user is not the image's")
	}
	if pod.Spec.Grace < 50 { // 30 s of draining, and 10 s to exit
		t.Errorf("%d s to leave are too few", pod.Spec.Grace)
	}
	volumes := map[string]bool{}
	for _, v := range pod.Spec.Volumes {
		volumes[v.Name] = true
	}
	for _, v := range all[0].Spec.Claims {
		volumes[v.Metadata.Name] = true
	}
	var paths []string
	for _, m := range c.VolumeMounts {
		paths = append(paths, m.MountPath)
		if !volumes[m.Name] {
			t.Errorf("there is no volume %s", m.Name)
		}
	}
	checkFiles(t, manifests, c.Args, paths)
	for _, o := range all[1:] {
		if o.Kind != "Service" || o.Spec.Selector["app.kubernetes.io/name"] != pod.Metadata.Labels["app.kubernetes.io/name"] {
			t.Errorf("%s %s selects %v", o.Kind, o.Metadata.Name, o.Spec.Selector)
		}
		for _, p := range o.Spec.Ports {
			if names[p.Target] != p.Port {
				t.Errorf("service %s: %+v, and the pod has %v", o.Metadata.Name, p, names)
			}
		}
	}
	if all[0].Spec.ServiceName != all[2].Metadata.Name {
		t.Errorf("the set's service is %s", all[0].Spec.ServiceName)
	}
}

// checkFiles holds that files and the home are in volumes.
func checkFiles(t *testing.T, where string, args, paths []string) {
	t.Helper()
	for _, a := range append(slices.Clone(args), "--home=/var/lib/shoal") {
		_, value, _ := strings.Cut(a, "=")
		if strings.HasPrefix(value, "/") && !slices.ContainsFunc(paths, func(p string) bool { return value == p || strings.HasPrefix(value, p+"/") }) {
			t.Errorf("%s: %s is in no volume: %v", where, a, paths)
		}
	}
	if !strings.Contains(string(read(t, containerfile)), "SHOAL_HOME=/var/lib/shoal") {
		t.Error("the image's home is another")
	}
}

func TestCompose(t *testing.T) {
	var f struct {
		Services map[string]struct {
			Build            struct{ Context, Dockerfile string }
			Command          []string
			Ports, Expose    []string
			Volumes, Secrets []string
			Healthcheck      struct{ Test []string }
		}
		Volumes map[string]any
		Secrets map[string]struct{ File string }
	}
	if err := yaml.Unmarshal(read(t, composeFile), &f); err != nil {
		t.Fatal(err)
	}
	s, ok := f.Services["shoal"]
	if !ok || len(f.Services) != 1 {
		t.Fatalf("services: %v", f.Services)
	}
	if _, err := os.Stat("../container/" + s.Build.Context + "/" + s.Build.Dockerfile); err != nil {
		t.Error(err)
	}
	var ports []int
	for _, p := range append(slices.Clone(s.Ports), s.Expose...) {
		p, _, _ = strings.Cut(p, "/")
		n, err := strconv.Atoi(p[strings.LastIndex(p, ":")+1:])
		if err != nil {
			t.Fatal(err)
		}
		ports = append(ports, n)
	}
	checkFlags(t, composeFile, s.Command, ports)
	paths := []string{}
	for _, v := range s.Volumes {
		name, path, _ := strings.Cut(v, ":")
		if _, ok := f.Volumes[name]; !ok {
			t.Errorf("there is no volume %s", name)
		}
		paths = append(paths, path)
	}
	for _, name := range s.Secrets {
		if f.Secrets[name].File == "" {
			t.Errorf("there is no secret %s", name)
		}
		paths = append(paths, "/run/secrets/"+name)
	}
	checkFiles(t, composeFile, s.Command, paths)
	if test := s.Healthcheck.Test; len(test) != 3 || !strings.Contains(string(read(t, containerfile)), test[1]) {
		t.Errorf("the health check is %v", test)
	}
}
