package course

import (
	"os"
	"strings"
	"sync"
)

// LanguageFromEnv is "zh" where the user's locale is Chinese, else "en". The order is that of locale(7).
func LanguageFromEnv() string {
	for _, name := range []string{"LC_ALL", "LC_MESSAGES", "LANG"} {
		if v := os.Getenv(name); v != "" {
			if strings.HasPrefix(v, "zh") {
				return "zh"
			}
			return "en"
		}
	}
	return "en"
}

// words is what the engine itself says, in Chinese.
var words = sync.OnceValue(func() Messages {
	return Messages{
		"step %d of %d": "第 %d 步，共 %d 步",
		"passed":        "通过",
		"failed":        "未通过",
		"interrupted":   "已中断",
		"left early":    "提前退出",
		"Why":           "原因",
		"Guess":         "猜想",
		"Do":            "执行",
		"See":           "观察",
		"Check":         "检查",
		"Beware":        "注意",
		"Error":         "出错",
		"Host":          "宿主机",
		"Left":          "遗留",
		"Kept":          "保留",

		"want %s, got %s":                    "期望 %s，实际 %s",
		"hint: %s":                           "提示：%s",
		"your guess (1-%d, Enter to skip): ": "你的猜想（1-%d，直接回车跳过）：",
		"please type a number from 1 to %d":  "请输入 1 到 %d 之间的数字",
		"you said %d) %s: right":             "你猜的是 %d) %s：对了",
		"you said %d) %s; it is %d) %s":      "你猜的是 %d) %s；实际是 %d) %s",
		"Enter next · r repeat · s shell · c source · q quit > ":                                                               "回车 下一步 · r 重做 · s shell · c 源码 · q 退出 > ",
		"Enter finish · r repeat · s shell · c source · q quit > ":                                                             "回车 结束 · r 重做 · s shell · c 源码 · q 退出 > ",
		"type n, r, s, c or q, and Enter":                                                                                      "请输入 n、r、s、c 或 q，然后回车",
		"a shell inside, in the namespaces as they are now; 'exit' comes back":                                                 "已进入当前命名空间里的 shell；输入 exit 返回",
		"this step has called nothing in the stage":                                                                            "这一步没有调用 stage 里的函数",
		"%s checks, %s failed · %s":                                                                                            "%s 项检查，%s 项失败 · %s",
		"difference to before: mounts %d · cgroups %d · links %d · processes %d":                                               "与运行前的差异：挂载 %d · 控制组 %d · 网卡 %d · 进程 %d",
		"difference to before: mounts %d · cgroups %d · links %d · processes %d (kept on purpose: 'nslab clean' removes them)": "与运行前的差异：挂载 %d · 控制组 %d · 网卡 %d · 进程 %d（按要求保留，用 nslab clean 清除）",
		"interrupted: cleaning up":                                                                                             "已中断：正在清理",
		"enter with: nsenter -t %d -a  ·  remove with: nslab clean":                                                            "进入：nsenter -t %d -a  ·  清除：nslab clean",
		"remove with: nslab clean":                                                                                             "清除：nslab clean",

		// the commands
		"LAB": "实验", "TITLE": "主题", "NEEDS": "需要", "TIME": "用时", "DONE": "完成",
		"%d min":                         "%d 分钟",
		"root or user namespace":         "root 或用户命名空间",
		"control groups":                 "控制组",
		"removed %s":                     "已清除 %s",
		"run %s is going on: left alone": "%s 正在运行，未作处理",
		"nothing was left behind":        "没有任何遗留",
	}
})

// Say returns a function that formats what nslab's own commands say, in lang.
func Say(lang string) func(format string, args ...any) string {
	return func(format string, args ...any) string { return words().say(lang == "zh", format, args...) }
}
