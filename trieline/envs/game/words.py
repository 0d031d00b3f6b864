"""Common English words of three, four and five letters, written down for the word games.

Secrets and guesses are drawn from these. Words may be added at any time: tasks name their own.
"""

_THREE = """
ant arm art bag bat bed bee big bird box boy bus can cap car cat cow cry cup day dog dry ear egg end eye
fan far fat fig fish fit fly fog fox fun gas gem got gum gun hat hen hip hit hot ice ink jam jar jet job
joy key kid kit law leg lid lip log lot low man map mat mix mud net new nod nut oak oil old one owl own
pan pay pea pen pet pie pig pin pit pot raw red rib row rug run sad saw sea sit six sky son sun tax tea
ten tie tin tip toe top toy two van war way web wet win yes zoo
"""
_FOUR = """
able acid aged also area army away baby back bake ball band bank base bath bean bear beat bell belt bend
best bird blow blue boat body bone book boot born both bowl bulb burn bush busy cake call calm camp card
care cart case cash cave chat chin city clay club coal coat code cold comb cook cool copy corn cost crew
crop dark data date dawn deal dear debt deep deer desk dirt dish door down draw drop drum duck dust duty
earn east easy edge even exit face fact fair fall farm fast fear feed feel file fill film find fine fire
fish five flag flat flow food foot fork form four free frog fuel full game gate gift girl give glad goat
gold good gray grow hair half hall hand hard head heat help hero hide high hill hole home hope horn hour
huge idea iron item jump keep kind king kite knee knot lady lake lamp land lane last late lawn lead leaf
left lens life lift line lion list long look loud love luck made mail main make mark meal meat melt milk
mind mine moon more move much nail name near neck need nest news nine noon nose note open oven page pain
pair palm park part past path pear pink plan play plum poem pond pool poor post pull pure push race rail
rain read real rest rice rich ride ring ripe rise road rock roof room root rope rose rule safe sail salt
sand seat seed ship shoe shop show side sign silk sing size skin slow snow soap sock soft soil song soup
spot star stem step stop swim tail talk tall tank task team tent test thin tide time tiny tool town tree
true tube turn vase very view vote wait walk wall warm wash wave weak wear west wide wild wind wine wing
wise wish wolf wood wool word work yard year zero
"""
_FIVE = """
about above actor adult after agree alarm album alive allow alone along angel angle animal ankle apple
apron arrow aside badge baker beach began begin below bench berry birth black blade blank blind block
blood board brain brave bread break brick bride brief bring broad brown brush build bunch cabin cable
candy carry catch cause chain chair chalk chase cheap check cheek cheer chess chest chief child choir
civil clean clear climb clock close cloth cloud coach coast color count court cover crane cream crowd
crown cycle daily dance depth dirty dozen dream dress drink drive early earth eight elbow empty enemy
enjoy enter equal event every exact extra faith false fancy favor fence fever field fifty fight final
first flame flash fleet floor flour flute focus force forty frame fresh front fruit funny ghost giant
glass globe glove goose grade grain grand grape graph grass great green group guard guess guest guide
habit happy heart heavy hello honey horse hotel house human humor image index inner ivory jelly jewel
joint judge juice knife knock label large laugh layer learn lemon level light limit linen local loose
lucky lunch magic major maple march match maybe mayor medal melon metal meter might minor model money
month moral motor mount mouse mouth movie music nerve never night noise north novel nurse ocean offer
often olive onion opera orbit order other outer owner paint panel paper party pasta patch pause peace
peach pearl penny phone photo piano piece pilot pitch place plain plane plant plate point pound power
press price pride print prize proud queen quick quiet quite radio raise range rapid reach ready reply
right rival river robin robot rough round route royal ruler salad scale scene score sense serve seven
shade shake shape share sharp sheep sheet shelf shell shine shirt shore short shout sight skill sleep
slice slide small smart smile smoke snake solid solve sound south space spare speak speed spell spend
spice spoon sport staff stage stair stamp stand start steam steel stick still stone store storm story
stove straw study sugar sunny super sweet swing table taste teach thank theme thick thing third three
throw thumb tiger title toast today tooth torch total touch tower track trade train treat trend trial
truck trust truth twice uncle under union upper upset urban usual value video visit voice wagon waste
watch water whale wheat wheel while white whole woman world worry wrist write wrong yield young youth
zebra
"""

WORDS: dict[int, tuple[str, ...]] = {
    length: tuple(sorted({word for word in text.split() if len(word) == length}))
    for length, text in ((3, _THREE), (4, _FOUR), (5, _FIVE))
}
"""By their length, in the order of the alphabet."""
