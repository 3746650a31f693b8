"""Words that turn what is said around, and words that say little. In small letters."""

from __future__ import annotations

from typing import Final


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


NEGATIONS: Final = _words(
    # English
    "no not never none nobody nothing neither nor nowhere without cannot unable dont cant wont doesnt didnt isnt wasnt "
    "arent werent couldnt wouldnt shouldnt hasnt havent hadnt aint except unless "
    # German, Dutch
    "nicht kein keine keinen keinem keiner keines nie niemals niemand nichts ohne nirgends weder "
    "niet geen nooit niemand niets zonder "
    # French
    "ne pas jamais rien aucun aucune sans ni "
    # Spanish, Portuguese, Italian
    "nunca jamás nada nadie ningún ninguna ninguno sin tampoco não sem nenhum nenhuma ninguém non mai senza nessuno "
    "nessuna niente nulla né "
    # Danish, Norwegian, Swedish, Finnish
    "ikke inte ej aldrig aldri uden uten utan ingen inget intet ei emme ette eivät "
    # Polish, Czech, Romanian, Hungarian, Turkish, Indonesian
    "nie nigdy nikt nic bez ne nikdy nikdo nu niciodată fără nem soha nincs nélkül değil yok hiç tidak bukan tanpa "
    # Russian, Ukrainian, Greek
    "не нет ни никогда никто ничего нельзя без ні немає ніколи ніхто нічого δεν μην όχι ποτέ κανείς τίποτα χωρίς "
    # Arabic, Hebrew, Persian, Hindi
    "لا ليس ليست لم لن ما بدون غير לא אין אל בלי نه نیست هیچ نمی नहीं न मत बिना कभी "
    # Chinese, Japanese, by the character
    "不 没 沒 無 无 非 未 别 別 莫 否"
)
"""Words that negate in some languages. One that does not in another makes texts unlike too often, and never alike."""

CONTRACTED: Final = ("n't", "n’t")
NEGATING_PARTS: Final = (*CONTRACTED, "ない", "なかっ", "なく", "ません", "않", "없", "못", "아니", "ไม่")
"""They negate within a word, or where there are no spaces between words."""

NUMBER_WORDS: Final = {
    word: str(number)
    for number, words in {
        0: "zero null cero zéro", 2: "two zwei deux dos", 3: "three drei trois tres", 4: "four vier quatre cuatro",
        5: "five fünf cinq cinco", 6: "six sechs seis", 7: "seven sieben sept siete", 8: "eight acht huit ocho",
        9: "nine neun neuf nueve", 10: "ten zehn dix diez", 11: "eleven elf onze", 12: "twelve zwölf douze doce",
        20: "twenty zwanzig vingt veinte", 30: "thirty dreißig trente treinta", 50: "fifty fünfzig cinquante cincuenta",
        100: "hundred hundert cien", 1000: "thousand tausend mille mil", 1000000: "million millionen millón",
    }.items()
    for word in words.split()
}  # fmt: skip
"""Numbers that are words. "One" is left out: it stands for other things too often."""

SAY_LITTLE: Final = _words(
    "a an the is are was were be been being am i you he she it we they me us them my your our their his her its mine "
    "this that these those do does did doing have has had will would can could shall should may might must of and or "
    "so please hi hello dear hey thanks thank there here just very really also too um oh well "
    "der die das ein eine einen einem ist sind war ich du sie wir es mein meine und bitte hallo danke "
    "le la les un une des est je tu il elle nous vous mon ma mes et bonjour merci de du "
    "el los las uno una es yo mi mis y por favor hola gracias"
)
"""Words that may be there or not, and of which one may stand for another."""
