package main

// commandLine is the whole grammar: the flags that every command has, and the commands in the order in which the overview lists
// them. A command is a struct with a Run method, Run(context.Context, *invocation) error, and a Help method that tells what it
// does in a paragraph and shows examples.
type commandLine struct {
	globalFlags

	Herder  herderCommands `cmd:"" group:"roles" help:"The nar store: keeps and serves what was published."`
	Import  importCommand  `cmd:"" group:"content" help:"Publish store items from caches and stores."`
	Follow  followCommand  `cmd:"" group:"content" help:"Keep a deployment supplied from other substitute servers."`
	Push    pushCommand    `cmd:"" group:"content" help:"Publish store items on a herder over HTTP."`
	Token   tokenCommands  `cmd:"" group:"care" help:"Make and end the rights of those who publish."`
	Check   checkCommand   `cmd:"" group:"care" help:"Compare what is published with what is stored."`
	Repair  repairCommand  `cmd:"" group:"care" help:"Bring damaged objects back from where their nars can be had."`
	Backup  backupCommand  `cmd:"" group:"care" help:"Copy the catalogue while it is in use."`
	Restore restoreCommand `cmd:"" group:"care" help:"Put a copy of the catalogue in its place."`
	Rebuild rebuildCommand `cmd:"" group:"care" help:"Make a lost catalogue anew from the object store."`

	Key     keyCommands     `cmd:"" group:"offline" help:"Make and inspect signing keys."`
	Narinfo narinfoCommands `cmd:"" group:"offline" help:"Check and sign narinfos."`
	Nar     narCommands     `cmd:"" group:"offline" help:"Make, restore, hash and look into nars."`
	Version versionCommand  `cmd:"" group:"offline" help:"Tell what this program is."`
}

// groups are the headings of the help texts, by the group tags of commands and flags.
var groups = map[string]string{
	"roles":   "Roles, which run until they are stopped:",
	"content": "Bring content in and hand it on:",
	"care":    "Look after a deployment:",
	"global":  "Flags of every command:",
	"offline": "Keys, narinfos and nars, without a deployment:",
}

// globalFlags are the flags that every command has.
type globalFlags struct {
	JSON        bool        `name:"json" group:"global" help:"Answer in JSON on standard output."`
	Quiet       bool        `short:"q" group:"global" help:"Show no progress."`
	LogLevel    string      `enum:"debug,info,warn,error" default:"info" group:"global" placeholder:"LEVEL" help:"Log this and above: debug, info, warn or error. Default: ${default}."`
	LogFormat   string      `enum:"text,json" default:"text" group:"global" placeholder:"FORMAT" help:"Log as text or json, to standard error. Default: ${default}."`
	ShowVersion versionFlag `name:"version" group:"global" help:"Print the version and exit."`
}
