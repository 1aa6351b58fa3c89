package security

import "github.com/nslab/nslab/course"

// zh is what the steps and the errors say, in Chinese.
func zh() course.Messages {
	return course.Messages{
		// split
		"CapEff: %s, which are %s capabilities; chroot: %s, sethostname: %s, settimeofday: %s": "CapEff：%s，共 %s 项 capability；chroot：%s，sethostname：%s，settimeofday：%s",
		"what is left are Docker's capabilities, no more and no less":                          "剩下的正是 Docker 保留的那些，不多也不少",
		"the user is the same as before":                                                       "用户和原来一样",
		"before, the host name could be set":                                                   "此前可以设置主机名",
		"chroot works: CAP_SYS_CHROOT is among those that are left":                            "chroot 可以：CAP_SYS_CHROOT 还在",
		"sethostname is refused: it takes CAP_SYS_ADMIN":                                       "sethostname 被拒绝：它需要 CAP_SYS_ADMIN",
		"settimeofday is refused: it takes CAP_SYS_TIME":                                       "settimeofday 被拒绝：它需要 CAP_SYS_TIME",

		// regain
		"capset only, then a program, process %s: CapEff: %s (%s), CapBnd: %s": "只用 capset，再执行程序，进程 %s：CapEff：%s（%s 项），CapBnd：%s",
		"the bounding set first, process %s: CapEff: %s (%s), CapBnd: %s":      "先改 bounding set，进程 %s：CapEff：%s（%s 项），CapBnd：%s",
		"after capset alone, execve gives root everything back":                "只用 capset，execve 就把一切还给了 root",
		"the bounding set has lost what is not kept: one prctl for each":       "bounding set 里只剩要保留的：每删一项就是一次 prctl",
		"and what is not in it does not come back":                             "不在其中的就回不来了",

		// no-new-privs
		"root, capset only, with no_new_privs: NoNewPrivs: %s, CapEff: %s (%s), CapBnd: %s": "root，只用 capset，并设 no_new_privs：NoNewPrivs：%s，CapEff：%s（%s 项），CapBnd：%s",
		"the kernel has noted it": "内核已经记下",
		"root's next program gets back nothing, though the bounding set is full":           "虽然 bounding set 是满的，root 的下一个程序什么也没拿回来",
		"a set-user-id program is left out: as an ordinary user you have one user id only": "略去 set-user-id 程序：普通用户只有一个用户编号",
		"user %s executes root's set-user-id program: NoNewPrivs: %s, Uid: %s, CapEff: %s": "用户 %s 执行 root 的 set-user-id 程序：NoNewPrivs：%s，Uid：%s，CapEff：%s",
		"the set-user-id bit makes root of anybody":                                        "set-user-id 位让任何人变成 root",
		"with no_new_privs the same program runs as its user":                              "设了 no_new_privs，同一个程序以执行者的身份运行",
		"and has no capability": "并且没有任何 capability",

		// seccomp
		"the profile: mkdir and mkdirat are answered with errno 28, which is ENOSPC; all else is allowed": "配置：对 mkdir 和 mkdirat 答复 errno 28，即 ENOSPC；其余全部允许",
		"mkdir in the box before: %s; after: %s; from outside, in the same folder: %s":                    "盒子里的 mkdir，此前：%s；此后：%s；从外面在同一目录里：%s",
		"the file system has %s of %s blocks free; the box has %s capabilities":                           "文件系统空闲 %s 块，共 %s 块；盒子有 %s 项 capability",
		"/proc/%s/status: Seccomp: %s, Seccomp_filters: %s":                                               "/proc/%s/status：Seccomp：%s，Seccomp_filters：%s",
		"the kernel shows mode 2: a filter":                                                               "内核显示模式 2：有过滤器",
		"before, the box could make a folder":                                                             "此前盒子可以建目录",
		"now it is answered what the profile says, though it is root with all capabilities":               "现在得到的是配置里写的答复，虽然它是拥有全部 capability 的 root",
		"the file system itself has room: the kernel was never asked":                                     "文件系统本身有空间：根本没有问到内核",

		// profile
		"of %s calls, Docker's profile allows %s, and %s more with certain arguments; with CAP_SYS_ADMIN %s": "%s 个调用里，Docker 的配置允许 %s 个，另有 %s 个取决于参数；有 CAP_SYS_ADMIN 时允许 %s 个",
		"as a program for the kernel it has %s instructions":                                                 "作为给内核的程序，它有 %s 条指令",
		"%s: without the filter %s, with it %s":                                                              "%s：没有过滤器时 %s，有过滤器时 %s",
		"chroot is allowed, since CAP_SYS_CHROOT is":                                                         "chroot 允许，因为有 CAP_SYS_CHROOT",
		"setns is refused, before anybody looks at its arguments":                                            "setns 被拒绝，还没有人看它的参数",
		"so is unshare, even of nothing":                                                                     "unshare 也是，哪怕什么都不分离",
		"a call may be allowed with one argument":                                                            "一个调用可以在某个参数下允许",
		"and refused with another":                                                                           "换一个参数就拒绝",
		"clone3 does not exist: its arguments lie in memory, where no filter can look":                       "clone3“不存在”：它的参数在内存里，过滤器看不到",
		"nor does a call that is newer than the profile":                                                     "比配置更新的调用也“不存在”",
		"without the filter, setns fails for a reason of its own":                                            "没有过滤器时，setns 因为它自己的原因而失败",

		// cost
		"%s: %s ns without a filter, %s ns with it, × %s":                                                "%s：没有过滤器 %s ns，有过滤器 %s ns，× %s",
		"the first is allowed whatever its arguments are; for the second the program runs, at each call": "第一个不论参数如何都允许；第二个每次都要运行那段程序",
		"one box has no filter, the other has one":                                                       "一个盒子没有过滤器，另一个有",
		"every call was answered, under the filter, too":                                                 "每次调用都得到了答复，有过滤器时也是",

		// mask
		"before: %s has %s bytes; %s has: %s; %s opened for writing: %s":        "此前：%s 有 %s 字节；%s 里有：%s；以写方式打开 %s：%s",
		"after: %s has %s bytes; %s has: %s; %s opened for writing: %s":         "此后：%s 有 %s 字节；%s 里有：%s；以写方式打开 %s：%s",
		"of the %s paths that Docker covers, this kernel has %s":                "Docker 要盖住 %s 个路径，这个内核有其中 %s 个",
		"before, the file told about the machine":                               "此前，这个文件讲的是整台机器",
		"the file is empty now: it is /dev/null":                                "现在文件是空的：它是 /dev/null",
		"the folder is empty now: it is a tmpfs":                                "现在目录是空的：它是一个 tmpfs",
		"before, root of the box could write to /proc/sys":                      "此前，盒子的 root 可以写 /proc/sys",
		"now it is read-only, though the rest of /proc is not":                  "现在它是只读的，而 /proc 的其余部分不是",
		"out here the file is as it was":                                        "在外面，文件一如既往",
		"the box, with the capabilities of a container, unmounts the cover: %s": "盒子带着容器的 capability 去卸载遮盖物：%s",
		"without CAP_SYS_ADMIN the cover cannot be taken off":                   "没有 CAP_SYS_ADMIN，遮盖物揭不下来",

		// devices
		"%s is device %s %s:%s; a file for it, made in the box, opened: %s":          "%s 是设备 %s %s:%s；在盒子里为它建的文件，打开：%s",
		"%s rules, in control groups v%s":                                            "%s 条规则，控制组 v%s",
		"now: opened: %s; a second file for it, made: %s, opened: %s; /dev/null: %s": "现在，打开：%s；为它再建一个文件：%s，打开：%s；/dev/null：%s",
		"before, root of the box could read the device":                              "此前，盒子的 root 可以读这个设备",
		"the same file does not open any more":                                       "同一个文件打不开了",
		"another one may still be made":                                              "还可以再建一个",
		"but it does not open either: the numbers count, not the name":               "但也打不开：算数的是编号，不是名字",
		"/dev/null does": "/dev/null 打得开",
		"as an ordinary user you are root of a user namespace; mknod of /dev/null's numbers there: %s": "作为普通用户，你是用户命名空间里的 root；在那里用 /dev/null 的编号 mknod：%s",
		"in a user namespace no device file can be made, so nothing has to be limited":                 "在用户命名空间里不能创建设备文件，也就无需限制",
		"those of the host can be used, where they are bound in":                                       "宿主机的设备文件绑定进来就可以用",
		"and the program for control groups v2 is refused: %s":                                         "给控制组 v2 的程序也被拒绝：%s",
		"it takes a right over the machine to load one":                                                "加载这种程序需要对整台机器的权力",

		// order
		"%s calls, of them %s to empty the bounding set; only the first of those is shown": "共 %s 次调用，其中 %s 次用来清理 bounding set，只显示第一次",
		"/proc/%s/status: Uid: %s, CapEff: %s, CapBnd: %s, NoNewPrivs: %s, Seccomp: %s":    "/proc/%s/status：Uid：%s，CapEff：%s，CapBnd：%s，NoNewPrivs：%s，Seccomp：%s",
		"the program has the capabilities that were meant for it":                          "程序拥有打算给它的 capability",
		"it can never have more than these":                                                "它永远不会多于这些",
		"it gains nothing by execve, and is filtered":                                      "它不会因 execve 得到什么，并且受过滤",
		"after the filter comes nothing but execve":                                        "过滤器之后只有 execve",
		"capset first, the bounding set after it: %s":                                      "先 capset，后改 bounding set：%s",
		"in the wrong order the right is gone that the next step takes":                    "次序颠倒，下一步所需的权力就已经没有了",

		// kernel
		"uname -r inside: %s; out here: %s":                                           "里面的 uname -r：%s；外面：%s",
		"the kernel's boot id inside: %s; out here: %s":                               "里面的内核启动 id：%s；外面：%s",
		"MemTotal inside: %s; out here: %s":                                           "里面的 MemTotal：%s；外面：%s",
		"the clock: out here %s, inside %s, out here %s (nanoseconds of this second)": "时钟：外面 %s，里面 %s，外面 %s（这一秒内的纳秒数）",
		"setting it, inside: %s":                                                      "在里面设置时钟：%s",
		"it is the same kernel":                                                       "是同一个内核",
		"which was booted once":                                                       "只启动过一次",
		"/proc shows the machine's memory, whatever the limits are":                   "/proc 显示的是整台机器的内存，不管限额是多少",
		"it is the same clock":                                                        "是同一个时钟",
		"so a container may not set it: CAP_SYS_TIME is gone":                         "所以容器不能设置它：CAP_SYS_TIME 已经没有了",

		// errors
		"nslab has CAP_SETPCAP":              "nslab 有 CAP_SETPCAP",
		"the thread has set no_new_privs":    "线程已经设了 no_new_privs",
		"set no_new_privs before the filter": "先设 no_new_privs，再加载过滤器",
		"or it has CAP_SYS_ADMIN":            "或者它有 CAP_SYS_ADMIN",
		"the kernel has seccomp filters":     "内核支持 seccomp 过滤器",
		"take a kernel with CONFIG_SECCOMP_FILTER, or run without a filter (--security-opt seccomp=unconfined)": "换用带 CONFIG_SECCOMP_FILTER 的内核，或者不用过滤器（--security-opt seccomp=unconfined）",
		"nslab has CAP_SYS_ADMIN (or CAP_BPF and CAP_NET_ADMIN)":                                                "nslab 有 CAP_SYS_ADMIN（或者 CAP_BPF 和 CAP_NET_ADMIN）",
		"nslab is in the first user namespace":                                                                  "nslab 在最初的用户命名空间里",
		"an ordinary user can limit no devices, and need not: in a user namespace mknod is refused":             "普通用户不能限制设备，也不需要：在用户命名空间里 mknod 会被拒绝",
		"run nslab as root, with this capability":                                                               "以 root 运行 nslab，并带有这项 capability",
	}
}
