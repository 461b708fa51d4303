-- Times are Unix milliseconds. Epochs are the bits of an unsigned number. Severity: 0 info, 1 warning,
-- 2 critical. Epoch 0 is the collector's own voice about a node; no agent may use it.

create table nodes (
    name        text    not null primary key,
    first_heard integer not null,
    last_heard  integer not null,
    heartbeat   text    not null
) strict;

-- What has been taken from each spool: everything up to last_sequence.
create table epochs (
    node          text    not null,
    epoch         integer not null,
    last_sequence integer not null,
    last_batch    integer not null,
    full_report   integer,
    primary key (node, epoch)
) strict;

-- Each transition, as it was sent. The unique index is the second line behind last_sequence.
create table transitions (
    id          integer primary key,
    node        text    not null,
    epoch       integer not null,
    sequence    integer not null,
    fingerprint blob    not null,
    namespace   text    not null,
    container   text    not null,
    transition  text    not null,
    reason      text,
    severity    integer not null,
    observed    integer not null,
    received    integer not null,
    document    text
) strict;

create unique index transitions_once on transitions (node, epoch, sequence);
create index transitions_of_finding on transitions (fingerprint, id);
create index transitions_by_age on transitions (received);

-- One problem on one container. epoch and sequence point at the transition that holds its document.
create table places (
    fingerprint blob    not null,
    node        text    not null,
    namespace   text    not null,
    container   text    not null,
    severity    integer not null,
    title       text    not null,
    brief       text    not null,
    first_seen  integer not null,
    last_seen   integer not null,
    resolved    integer,
    reason      text,
    epoch       integer not null,
    sequence    integer not null,
    primary key (fingerprint, node, namespace, container)
) strict;

create index places_open on places (fingerprint, severity, last_seen, node, namespace, container)
    where resolved is null;
create index places_open_on_node on places (node) where resolved is null;
create index places_resolved on places (resolved) where resolved is not null;
create index places_document on places (node, epoch, sequence);

-- One problem over all its places. lead_* names the worst of them, the latest among equals.
create table findings (
    id             integer primary key,
    fingerprint    blob    not null unique,
    kind           text    not null,
    workload       text    not null,
    subject        text    not null,
    severity       integer not null,
    first_seen     integer not null,
    last_seen      integer not null,
    opened         integer not null,
    resolved       integer,
    reason         text,
    places_open    integer not null,
    lead_node      text    not null,
    lead_namespace text    not null,
    lead_container text    not null,
    members        blob    not null,
    news           integer not null,
    news_at        integer not null,
    change         integer not null
) strict;

create index findings_open on findings (severity desc, id) where resolved is null;
create index findings_by_change on findings (change);
create index findings_by_resolution on findings (resolved) where resolved is not null;

create table containers (
    node      text    not null,
    namespace text    not null,
    container text    not null,
    running   integer not null,
    observed  integer not null,
    received  integer not null,
    document  text    not null,
    primary key (node, namespace, container)
) strict;

create index containers_ended on containers (received) where running = 0;
